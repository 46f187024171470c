//! Logins by other sites. A site is one entry in the registry: how to send a person there, and how to learn who came back.
//!
//! Must never: know accounts or sessions (that is `service::oauth`).

mod github;
mod http;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;

use crate::sync::lock;
pub use github::Github;
pub use http::OAuthError;

/// Request a person is sent to a site with.
#[derive(Debug, Clone)]
pub struct AuthorizeRequest {
    pub redirect_uri: String,
    pub state: String,
    /// PKCE, method S256.
    pub code_challenge: String,
}

/// Code and verifier a site's answer is redeemed with.
#[derive(Debug, Clone)]
pub struct CodeGrant {
    pub code: String,
    pub redirect_uri: String,
    /// PKCE.
    pub code_verifier: String,
}

/// Profile of a person at a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The site's own id, which never changes.
    pub id: String,
    /// Only an address the site has confirmed: accounts are made with it.
    pub verified_email: Option<String>,
    pub name: String,
}

/// A site people can log in by.
pub trait OAuthProvider: Send + Sync {
    /// As it stands in URLs: lower-case letters, digits and dashes.
    fn name(&self) -> &str;

    /// Where to send the person.
    fn authorize_url(&self, request: &AuthorizeRequest) -> String;

    /// Redeems the code that came back and asks who it is.
    fn identify<'a>(&'a self, grant: &'a CodeGrant) -> BoxFuture<'a, Result<Profile, OAuthError>>;
}

/// All sites of a server.
#[derive(Default)]
pub struct OAuthRegistry(Mutex<BTreeMap<String, Arc<dyn OAuthProvider>>>);

impl OAuthRegistry {
    /// Adds a site, in the place of one of the same name.
    pub fn register(&self, provider: Arc<dyn OAuthProvider>) {
        let name = provider.name().to_owned();
        lock(&self.0).insert(name, provider);
    }

    /// The site of this name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn OAuthProvider>> {
        lock(&self.0).get(name).cloned()
    }

    /// Names of all sites.
    pub fn names(&self) -> Vec<String> {
        lock(&self.0).keys().cloned().collect()
    }
}
