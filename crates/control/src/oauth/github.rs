//! GitHub, or an installation of its server elsewhere.

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Deserialize;

use super::http::{get, post_form};
use super::{AuthorizeRequest, CodeGrant, OAuthError, OAuthProvider, Profile};
use crate::config::GithubApp;
use crate::outbound_http::SiteClient;
use crate::percent::escape;

/// The provider `github`.
pub struct Github {
    app: GithubApp,
    client: SiteClient,
}

#[derive(Deserialize)]
struct Token {
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct User {
    id: u64,
    login: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    email: String,
    primary: bool,
    verified: bool,
}

impl Github {
    /// The provider of a registered app.
    pub fn new(app: GithubApp, client: SiteClient) -> Self {
        Self { app, client }
    }

    async fn profile(&self, grant: &CodeGrant) -> Result<Profile, OAuthError> {
        let url = format!("{}/login/oauth/access_token", self.app.base_url);
        let form = [
            ("client_id", self.app.client_id.as_str()),
            ("client_secret", &self.app.client_secret),
            ("code", &grant.code),
            ("redirect_uri", &grant.redirect_uri),
            ("code_verifier", &grant.code_verifier),
        ];
        let token: Token = post_form(&self.client, &url, &form).await?;
        // A wrong code is answered with 200 and an error text.
        let token = token.access_token.ok_or(OAuthError::Nonsense { url, what: "it gave no token for the code" })?;
        let user: User = get(&self.client, &format!("{}/user", self.app.api_url), &token).await?;
        // The address on the profile page may be anything; only this list says what was confirmed.
        let addresses: Vec<Address> = get(&self.client, &format!("{}/user/emails", self.app.api_url), &token).await?;
        let verified_email = addresses.into_iter().find(|a| a.primary && a.verified).map(|a| a.email);
        let name = user.name.filter(|name| !name.trim().is_empty()).unwrap_or(user.login);
        Ok(Profile { id: user.id.to_string(), verified_email, name })
    }
}

impl OAuthProvider for Github {
    fn name(&self) -> &str {
        "github"
    }

    fn authorize_url(&self, request: &AuthorizeRequest) -> String {
        format!(
            "{}/login/oauth/authorize?client_id={}&redirect_uri={}&scope={}&state={}&code_challenge={}&code_challenge_method=S256",
            self.app.base_url,
            escape(&self.app.client_id),
            escape(&request.redirect_uri),
            escape("user:email"),
            escape(&request.state),
            escape(&request.code_challenge),
        )
    }

    fn identify<'a>(&'a self, grant: &'a CodeGrant) -> BoxFuture<'a, Result<Profile, OAuthError>> {
        self.profile(grant).boxed()
    }
}
