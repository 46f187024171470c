//! Sessions in HTTP. [`middleware`] is the one place that knows cookies, the CSRF rule and the guards; own routes and
//! extensions use the same.

pub(crate) mod cookies;
mod guards;
pub mod middleware;
pub mod names;
