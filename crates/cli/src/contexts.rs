//! Servers this person is logged in at: `contexts.json` in the user's configuration directory, readable by its owner only.
//!
//! Owns: that file. Must never: give a key to another server than the one it is for.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::api::Connection;

/// Where a control plane is when nobody says otherwise.
pub const BASE_URL_DEFAULT: &str = "http://127.0.0.1:8000";

/// All of them.
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
    pub fn chosen(&self, name: Option<&str>) -> anyhow::Result<Option<&Context>> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        match self.contexts.get(name) {
            Some(context) => Ok(Some(context)),
            None => bail!("there is no context {name}; `wrenn context list` shows those there are"),
        }
    }

    /// What to connect to: what was said outright, else the context's. A context's key goes to its own server only.
    pub fn connection(
        &self,
        name: Option<&str>,
        base_url: Option<String>,
        api_key: Option<String>,
    ) -> anyhow::Result<Connection> {
        let context = self.chosen(name)?;
        let base_url = base_url.or_else(|| context.map(|c| c.base_url.clone()));
        let base_url = base_url.unwrap_or_else(|| BASE_URL_DEFAULT.to_owned());
        let its_own = context.filter(|c| c.base_url.trim_end_matches('/') == base_url.trim_end_matches('/'));
        let api_key = api_key.filter(|key| !key.is_empty()).or_else(|| its_own.map(|c| c.api_key.clone()));
        Ok(Connection { base_url, api_key })
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
