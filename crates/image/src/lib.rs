//! Images: pull, unpack, import, list, remove.
