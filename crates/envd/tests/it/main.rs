//! envd as its callers see it: the real binary, real clients.

mod envd;
mod files;
mod freezer;
mod harness_works;
mod processes;
mod tunnel;
