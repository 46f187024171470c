//! Servers this person is logged in at: `contexts.json` in the user's configuration directory, readable by its owner only.
//!
//! Owns: that file. Must never: give a key to another server than the one it is for.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use wrenn_domain::base_url::BaseUrl;

use crate::api::Connection;

/// Where a control plane is when nobody says otherwise.
pub const BASE_URL_DEFAULT: &str = "http://127.0.0.1:8000";

/// Every login this person has.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Contexts {
    /// Name of the one in use.
    #[serde(default)]
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// One server and the key for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Context {
    pub base_url: String,
    pub api_key: String,
}

impl Contexts {
    /// Reads the file; none is an empty one.
    ///
    /// # Errors
    /// The file cannot be read, or is not what `wrenn login` wrote.
    pub fn load() -> anyhow::Result<Self> {
        // Who has no home, such as a service, has no logins either.
        let Ok(path) = path() else { return Ok(Self::default()) };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is not what `wrenn login` wrote; remove it", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Replaces the file in one step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self) -> anyhow::Result<()> {
        let path = path()?;
        let written = (|| {
            if let Some(dir) = path.parent() {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            let fresh = path.with_extension(format!("new-{}", std::process::id()));
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)
        })();
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// The one to use: the named one, else the current one, if there is any.
    ///
    /// # Errors
    /// There is no context of that name.
    pub fn chosen(&self, name: Option<&str>) -> anyhow::Result<Option<&Context>> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        match self.contexts.get(name) {
            Some(context) => Ok(Some(context)),
            None => bail!("there is no context {name}; `wrenn context list` shows those there are"),
        }
    }

    /// Chooses server and key: those named outright, else the context's. A context's key goes to its own server only.
    ///
    /// # Errors
    /// There is no context of that name.
    pub fn connection(
        &self,
        name: Option<&str>,
        base_url: Option<String>,
        api_key: Option<String>,
    ) -> anyhow::Result<Connection> {
        let context = self.chosen(name)?;
        let base_url = base_url.or_else(|| context.map(|c| c.base_url.clone()));
        let base_url = base_url.unwrap_or_else(|| BASE_URL_DEFAULT.to_owned());
        let its_own = context.filter(|c| is_same_server(&c.base_url, &base_url));
        let api_key = api_key.filter(|key| !key.is_empty()).or_else(|| its_own.map(|c| c.api_key.clone()));
        Ok(Connection { base_url, api_key })
    }
}

/// Server and key from one source that said either: its key goes to its server, or to the default one, and to no other.
///
/// A file of the folder one happens to stand in must not send the key of the environment elsewhere, nor the environment's server get the
/// file's key.
pub fn from_one_source(sources: impl IntoIterator<Item = Settings>) -> Settings {
    sources.into_iter().find(|source| source.base_url.is_some() || source.api_key.is_some()).unwrap_or_default()
}

/// Server and key as one source names them; an empty value is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub base_url: Option<String>,
    pub api_key: Option<String>,
    /// Whether it came from a file of the working directory: a key without a server then means the default server, not a login's.
    pub is_file: bool,
}

impl Settings {
    /// Settings with empty values left out.
    pub fn new(base_url: Option<String>, api_key: Option<String>) -> Self {
        let some = |value: Option<String>| value.filter(|text| !text.is_empty());
        Self { base_url: some(base_url), api_key: some(api_key), is_file: false }
    }

    /// Settings of a file.
    pub fn of_file(base_url: Option<String>, api_key: Option<String>) -> Self {
        let mut settings = Self { is_file: true, ..Self::new(base_url, api_key) };
        if settings.api_key.is_some() && settings.base_url.is_none() {
            settings.base_url = Some(BASE_URL_DEFAULT.to_owned());
        }
        settings
    }
}

fn is_same_server(a: &str, b: &str) -> bool {
    match (a.parse::<BaseUrl>(), b.parse::<BaseUrl>()) {
        (Ok(a), Ok(b)) => a.is_same(&b),
        _ => false,
    }
}

fn path() -> anyhow::Result<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = dir("WRENN_CONTEXTS") {
        return Ok(file);
    }
    let base = dir("XDG_CONFIG_HOME").or_else(|| dir("HOME").map(|home| home.join(".config")));
    let base =
        base.context("neither HOME nor XDG_CONFIG_HOME says where to keep logins; set WRENN_CONTEXTS to a file")?;
    Ok(base.join("wrenn/contexts.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Contexts {
        let context = |url: &str, key: &str| Context { base_url: url.into(), api_key: key.into() };
        Contexts {
            current: Some("a".into()),
            contexts: BTreeMap::from([
                ("a".into(), context("http://a", "wrn_a")),
                ("b".into(), context("http://b/", "wrn_b")),
            ]),
        }
    }

    #[track_caller]
    fn check(name: Option<&str>, url: Option<&str>, key: Option<&str>, expected: (&str, Option<&str>)) {
        let found = contexts().connection(name, url.map(str::to_owned), key.map(str::to_owned)).unwrap();
        assert_eq!((found.base_url.as_str(), found.api_key.as_deref()), expected);
    }

    #[test]
    fn server_and_key_come_from_one_source() {
        let text = |text: &str| Some(text.to_owned());
        let (env, file) =
            (Settings::new(None, text("wrn_env")), Settings::of_file(text("http://file"), text("wrn_file")));
        assert_eq!(from_one_source([env.clone(), file.clone()]), env, "the file's server must not get it");
        let env = Settings::new(text("http://env"), None);
        assert_eq!(from_one_source([env.clone(), file.clone()]), env, "nor the environment's server the file's key");
        let empty = Settings::new(text(""), text(""));
        assert_eq!(from_one_source([empty.clone(), file.clone()]), file);
        assert_eq!(from_one_source([empty]), Settings::default());
        let only_key = Settings::of_file(None, text("wrn_file"));
        assert_eq!(only_key.base_url.as_deref(), Some(BASE_URL_DEFAULT), "not a login's server");
    }

    #[test]
    fn what_is_said_outright_wins_and_a_key_goes_to_its_own_server_only() {
        check(None, None, None, ("http://a", Some("wrn_a")));
        check(Some("b"), None, None, ("http://b/", Some("wrn_b")));
        check(None, Some("http://a/"), None, ("http://a/", Some("wrn_a")));
        check(None, Some("http://evil"), None, ("http://evil", None));
        check(None, Some("http://evil"), Some("wrn_x"), ("http://evil", Some("wrn_x")));
        check(None, None, Some("wrn_x"), ("http://a", Some("wrn_x")));
        assert!(contexts().connection(Some("c"), None, None).is_err());
        let none = Contexts::default().connection(None, None, None).unwrap();
        assert_eq!((none.base_url.as_str(), none.api_key), (BASE_URL_DEFAULT, None));
    }
}
