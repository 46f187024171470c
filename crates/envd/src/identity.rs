//! Who this sandbox is: its token, default user, environment and ids. Set by `/init`, read by every call.
//!
//! Owns the token: it is compared in constant time, wiped when replaced, and never printed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use subtle::ConstantTimeEq;
use wrenn_contract::guest::Init;
use zeroize::Zeroizing;

/// Verdict on a caller's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCheck {
    /// The token is the sandbox's.
    Right,
    /// Missing or another one.
    Wrong,
    /// The sandbox has none yet.
    Unset,
}

/// The part of the identity that processes and files need.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// User of calls that name none.
    pub user: String,
    /// Working directory of processes that name none; the user's home when absent.
    pub workdir: Option<String>,
    /// Variables every process gets.
    pub env: BTreeMap<String, String>,
}

#[derive(Default)]
struct Inner {
    token: Option<Zeroizing<String>>,
    lifecycle_id: Option<String>,
    names: Names,
    defaults: Defaults,
}

/// Names the machine itself was given, in files and in the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    sandbox_id: Option<String>,
    template_id: Option<String>,
    proxy_domain: Option<String>,
    dns: Vec<IpAddr>,
}

impl Names {
    fn of(init: &Init) -> Self {
        Self {
            sandbox_id: init.sandbox_id.clone(),
            template_id: init.template_id.clone(),
            proxy_domain: init.proxy_domain.clone(),
            dns: init.dns.clone(),
        }
    }
}

/// See the module.
pub struct Identity {
    run_dir: PathBuf,
    inner: RwLock<Inner>,
}

impl Identity {
    /// An identity nobody has set yet: processes run as root. `run_dir` gets the files for programs inside.
    pub fn new(run_dir: &Path) -> Self {
        let defaults = Defaults {
            user: "root".to_owned(),
            workdir: None,
            env: BTreeMap::from([("WRENN_SANDBOX".to_owned(), "true".to_owned())]),
        };
        Self { run_dir: run_dir.to_owned(), inner: RwLock::new(Inner { defaults, ..Inner::default() }) }
    }

    /// Compares in constant time.
    pub fn check(&self, token: Option<&[u8]>) -> TokenCheck {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        match (&inner.token, token) {
            (None, _) => TokenCheck::Unset,
            (Some(own), Some(given)) if bool::from(own.as_bytes().ct_eq(given)) => TokenCheck::Right,
            (Some(_), _) => TokenCheck::Wrong,
        }
    }

    /// Defaults for a new process or a file call.
    pub fn defaults(&self) -> Defaults {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).defaults.clone()
    }

    /// User of calls that name none.
    pub fn default_user(&self) -> String {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).defaults.user.clone()
    }

    /// Whether `lifecycle_id` names a run of the VM not seen before.
    pub fn is_new_life(&self, lifecycle_id: Option<&str>) -> bool {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        lifecycle_id.is_none() || inner.lifecycle_id.as_deref() != lifecycle_id
    }

    /// Whether the machine has these names already: it comes back from a pause as the one it was.
    pub fn has_names(&self, init: &Init) -> bool {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        init.sandbox_id.is_some() && inner.names == Names::of(init)
    }

    /// Takes over what `init` brings; what is absent stays.
    pub fn apply(&self, init: &Init) {
        let mut guard = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        if let Some(token) = &init.access_token {
            inner.token = Some(Zeroizing::new(token.clone()));
        }
        if let Some(id) = &init.lifecycle_id {
            inner.lifecycle_id = Some(id.clone());
        }
        if let Some(user) = init.default_user.as_deref().filter(|user| !user.is_empty()) {
            inner.defaults.user = user.to_owned();
        }
        if let Some(workdir) = init.default_workdir.as_deref().filter(|dir| !dir.is_empty()) {
            inner.defaults.workdir = Some(workdir.to_owned());
        }
        if init.sandbox_id.is_some() {
            inner.names = Names::of(init);
        }
        for (name, value) in &init.env_vars {
            inner.defaults.env.insert(name.clone(), value.clone());
        }
        for (name, value) in init.published() {
            inner.defaults.env.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Writes the ids for programs that do not inherit envd's environment. Blocking.
    ///
    /// # Errors
    /// The first file that could not be written.
    pub fn publish(&self, init: &Init) -> std::io::Result<()> {
        for (name, value) in init.published() {
            std::fs::write(self.run_dir.join(format!(".{name}")), value)?;
        }
        Ok(())
    }

    /// Makes the directory for those files. Blocking.
    ///
    /// # Errors
    /// It could not be made.
    pub fn prepare_run_dir(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.run_dir)?;
        std::fs::write(self.run_dir.join(".WRENN_SANDBOX"), "true")
    }
}

/// Publisher of the facts an `/init` gives to programs in the sandbox.
pub trait Published {
    /// The ids an `/init` carries, under the names programs in the sandbox know.
    fn published(&self) -> impl Iterator<Item = (&'static str, &str)>;
}

impl Published for Init {
    fn published(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("WRENN_SANDBOX_ID", self.sandbox_id.as_deref()),
            ("WRENN_TEMPLATE_ID", self.template_id.as_deref()),
            ("WRENN_PROXY_DOMAIN", self.proxy_domain.as_deref()),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_right_only_when_it_is_the_same() {
        let identity = Identity::new(Path::new("/nonexistent"));
        assert_eq!(identity.check(Some(b"secret")), TokenCheck::Unset);
        identity.apply(&Init { access_token: Some("secret".into()), ..Init::default() });
        for (given, expected) in [
            (Some(&b"secret"[..]), TokenCheck::Right),
            (Some(b"secreT"), TokenCheck::Wrong),
            (Some(b"secret2"), TokenCheck::Wrong),
            (Some(b""), TokenCheck::Wrong),
            (None, TokenCheck::Wrong),
        ] {
            assert_eq!(identity.check(given), expected);
        }
    }

    #[test]
    fn what_an_init_leaves_out_stays() {
        let identity = Identity::new(Path::new("/nonexistent"));
        let first = Init {
            default_user: Some("daemon".into()),
            env_vars: BTreeMap::from([("A".into(), "1".into()), ("B".into(), "2".into())]),
            sandbox_id: Some("cl-1".into()),
            lifecycle_id: Some("one".into()),
            ..Init::default()
        };
        identity.apply(&first);
        assert!(!identity.is_new_life(Some("one")));
        assert!(identity.is_new_life(Some("two")));
        assert!(identity.has_names(&first) && !identity.has_names(&Init::default()));
        assert!(!identity.has_names(&Init { dns: vec![[9, 9, 9, 9].into()], ..first.clone() }));
        assert!(!identity.has_names(&Init { sandbox_id: Some("cl-2".into()), ..first }));
        identity.apply(&Init { env_vars: BTreeMap::from([("B".into(), "3".into())]), ..Init::default() });
        let defaults = identity.defaults();
        assert_eq!(defaults.user, "daemon");
        let expected = [("A", "1"), ("B", "3"), ("WRENN_SANDBOX", "true"), ("WRENN_SANDBOX_ID", "cl-1")];
        let got: Vec<_> = defaults.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(got, expected);
    }
}
