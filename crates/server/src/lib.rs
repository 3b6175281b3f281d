//! The API server: one request pipeline for all kinds.
