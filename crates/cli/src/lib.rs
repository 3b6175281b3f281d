//! The commands of the knarr program that talk to a server.
