//! Where Debian packages come from, and fetching single ones without touching this machine's apt.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{say, tool};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The mirror and, when this machine uses one, the security archive.
pub struct Mirror {
    main: String,
    security: Option<String>,
}

impl Mirror {
    /// `WRENN_DEBIAN_MIRROR`, or what this machine's apt is set up with.
    ///
    /// # Errors
    /// The sources of apt name no mirror.
    pub fn find() -> Result<Self> {
        let sites =
            tool::text(tool::command("apt-get").args(["indextargets", "--format", "$(SITE)"])).unwrap_or_default();
        let site = |end: &str| {
            sites.lines().map(|line| line.trim_end_matches('/')).find(|line| line.ends_with(end)).map(str::to_owned)
        };
        let main = match std::env::var("WRENN_DEBIAN_MIRROR") {
            Ok(mirror) if !mirror.is_empty() => mirror,
            _ => match site("/debian") {
                Some(mirror) => mirror,
                None => bail!("this machine's apt knows no Debian mirror: set WRENN_DEBIAN_MIRROR to one's URI"),
            },
        };
        Ok(Self { main, security: site("/debian-security") })
    }

    /// Lines for sources.list.
    pub fn sources(&self, suite: &str) -> Vec<String> {
        let mut lines = vec![format!("deb [signed-by={KEYRING}] {} {suite} main", self.main)];
        if let Some(security) = &self.security {
            lines.push(format!("deb [signed-by={KEYRING}] {security} {suite}-security main"));
        }
        lines
    }
}

/// Downloads the package that `metapackage` stands for; returns the .deb. Uses package lists of its own in `cache`.
///
/// # Errors
/// The lists or the package cannot be had.
pub fn download_kernel(mirror: &Mirror, suite: &str, metapackage: &str, cache: &Path) -> Result<PathBuf> {
    let apt = cache.join("apt");
    for place in ["lists/partial", "archives/partial", "etc"] {
        fs::create_dir_all(apt.join(place))?;
    }
    fs::write(apt.join("etc/sources.list"), mirror.sources(suite).join("\n") + "\n")?;
    fs::write(apt.join("status"), "")?;
    let set = |key: &str, place: &str| format!("{key}={}", apt.join(place).display());
    let settings = [
        set("Dir::State::lists", "lists"),
        set("Dir::State::status", "status"),
        set("Dir::Cache", "."),
        set("Dir::Cache::archives", "archives"),
        set("Dir::Etc::sourcelist", "etc/sources.list"),
        "Dir::Etc::sourceparts=-".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
        "APT::Architecture=amd64".to_owned(),
        "Acquire::Languages=none".to_owned(),
    ];
    let with_settings = |program: &str| {
        let mut command = tool::command(program);
        for setting in &settings {
            command.arg("-o").arg(setting);
        }
        command.current_dir(apt.join("archives"));
        command
    };
    say(&format!("reading the package lists of {suite}"));
    tool::output(with_settings("apt-get").arg("update"))?;
    let shown = tool::text(with_settings("apt-cache").args(["show", "--no-all-versions", metapackage]))?;
    let depends = shown
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))
        .context("the kernel package depends on nothing")?;
    let package = depends.split([',', ' ']).next().unwrap_or_default();
    say(&format!("downloading {package}"));
    for entry in fs::read_dir(apt.join("archives"))?.flatten() {
        if entry.path().extension().is_some_and(|ending| ending == "deb") {
            fs::remove_file(entry.path())?;
        }
    }
    tool::output(with_settings("apt-get").args(["download", package]))?;
    let found = fs::read_dir(apt.join("archives"))?.flatten().map(|entry| entry.path());
    found
        .into_iter()
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .context("apt downloaded nothing")
}
