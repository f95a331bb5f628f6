"""The file formats that other trainers read: one file for each format, and the registry of them."""
