//! What a private distribution may add without touching this code. Implement [`Extension`] and give it to [`crate::Server::builder`].
//!
//! This file is the outside's view only; inside this crate the files below are named themselves: [`plugin`] has the traits, [`context`] what
//! an extension may use of a server (the server holds extensions and they hold it: decisions/0014), [`hooks`] and [`limits`] call them.

pub(crate) mod context;
pub mod hooks;
pub mod limits;
pub(crate) mod plugin;

pub use futures::future::BoxFuture;
pub use wrenn_domain::ids::{EventId, SandboxId, TeamId, UserId};
pub use wrenn_domain::quota::{Limits, Usage};
pub use wrenn_store::pg::{Author, NewAudit, NewEvent};

pub use crate::auth::session::middleware::{
    RequireAdmin, RequirePerson, RequireSession, RequireSessionOrApiKey, SessionUser, clear_session_cookies,
    issue_session, require_admin, require_session, require_session_or_api_key,
};
pub use crate::auth::session::names::{CSRF_COOKIE_NAME, CSRF_HEADER_NAME, HOST_PREFIX, SESSION_COOKIE_NAME};
pub use crate::oauth::OAuthProvider;
pub use context::{Mailer, ServerContext};
pub use plugin::{
    AuthHook, Extension, ExtensionError, LimitsProvider, NewAccount, SandboxEvent, SandboxEventHook, SandboxEventKind,
    UsageProvider, Worker,
};
