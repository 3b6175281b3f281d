//! Reading and writing `/proc/sys`.
