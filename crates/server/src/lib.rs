//! The API server: one request pipeline for all kinds, built in or custom, over TLS and in process.
//!
//! ```text
//! bytes -> identify -> classify -> admit -> authorize -> decode -> default -> mutate -> validate -> commit -> encode -> bytes
//! ```
//!
//! Invariant: nothing reaches the store but through this pipeline, controllers' writes included, and no
//! component is called from here: components meet in objects.

mod admission;
mod aggregate;
mod allocate;
mod attributes;
mod audit;
mod authenticate;
mod authorize;
mod availability;
mod body;
mod bootstrap;
mod catalog;
mod certificate_files;
mod config;
mod conversion;
mod definitions;
mod dial;
mod durations;
mod encryption;
mod endpoints;
mod expiring;
mod expressions;
mod failure;
mod fairness;
mod follow;
mod gzip;
mod hook_client;
mod metrics;
mod pace;
mod peers;
mod pipeline;
mod query;
mod reload;
mod remote;
mod request;
mod reviews;
mod security;
mod selection;
mod server;
mod steps;
mod subresources;
mod trace;
mod transport;
mod user;
mod verbs;
mod wait;
mod websocket;
mod write;

pub use certificate_files::{CertificateFiles, PairFiles};
pub use config::{Config, Deps};
pub use durations::parse as parse_duration;
pub use encryption::Encryption;
pub use reload::{FileState, Reloads};
pub use security::{AuditSettings, OidcSettings, Security};
pub use server::{Readiness, Server, run};
pub use transport::in_process::InProcess;
pub use user::User;
