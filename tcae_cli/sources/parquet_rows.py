"""Lists the rows of Parquet files from their footers and small columns, without reading the images."""

from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa

from tcae_cli.errors import ImageError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.runtime.folder import Folder, open_to_read
from tcae_cli.sources.listing import Container, Group, Listing
from tcae_cli.sources.parquet_file import OpenParquet
from tcae_cli.sources.schema import Columns, cells_in, choose_columns
from tcae_cli.sources.table_rows import TableFile, TableRows

_READ_AHEAD_BYTES = 1 << 16  # as much as Arrow first takes a footer for; a column of labels may be tiny


def list_parquet(
    uri: str, root: str, names: Sequence[str], fields: SampleFields, on_progress: Callable[[int], None]
) -> Listing:
    """List the rows of the Parquet files of these names below a root, as ParquetFiles.scan does."""
    folder = open_to_read(root)
    rows = TableRows(uri, root)
    for file in folder.in_order(partial(_scan, folder, fields), names):
        rows.add(file)
        on_progress(rows.num_rows)
    return rows.listing("parquet")


def _scan(folder: Folder, fields: SampleFields, name: str) -> TableFile:
    """Return the rows of a file; those of a row group whose small columns are damaged have a problem."""
    with OpenParquet(folder, name, read_ahead_bytes=_READ_AHEAD_BYTES) as opened:
        columns = choose_columns(opened.file.schema_arrow, fields, opened.where)
        groups = opened.groups(columns.image)
        table, problems = _small_columns(opened, columns, groups)
    num_rows = sum(group.num_rows for group in groups)
    cells = cells_in(table, columns, num_rows, opened.where)
    return TableFile(Container(name, groups=groups), columns, cells, problems=problems)


def _small_columns(opened: OpenParquet, columns: Columns, groups: Sequence[Group]) -> tuple[pa.Table, dict[int, str]]:
    """Return the columns beside the images, null in damaged row groups, and the problems of their rows."""
    wanted = columns.beside_the_images()
    schema = _schema_of(opened.file.schema_arrow, columns)
    tables = [schema.empty_table()]
    problems: dict[int, str] = {}
    start = 0
    for number, group in enumerate(groups):
        try:
            tables.append(opened.read_group(number, wanted).select(schema.names))
        except ImageError as error:
            tables.append(pa.table([pa.nulls(group.num_rows, each.type) for each in schema], schema=schema))
            problems |= dict.fromkeys(range(start, start + group.num_rows), f"{error}; copy the file again")
        start += group.num_rows
    return pa.concat_tables(tables), problems


def _schema_of(schema: pa.Schema, columns: Columns) -> pa.Schema:
    """Return the schema of the columns beside the images; of those, only the paths."""
    image = schema.field(columns.image)
    if columns.has_paths:
        image = pa.field(image.name, pa.struct([image.type.field("path")]))
    has_names = columns.is_file_name or columns.has_paths
    others = [schema.field(name) for name in (columns.label, columns.caption) if name is not None]
    return pa.schema([*([image] if has_names else []), *others])
