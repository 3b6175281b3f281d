//! The controllers of the controller manager, one file each.
