//! The door: who a request comes from. Cookies, the CSRF rule, and the guards of routes.
//!
//! Owns: how a credential travels in HTTP. Must never: decide what a caller may do (that is `service`) or hold a truth
//! (that is the store).

pub mod session;
