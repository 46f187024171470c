//! See the crate table in docs/ARCHITECTURE.md.
