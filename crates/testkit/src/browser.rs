//! A real browser (Debian's Chromium, driven over WebDriver) with a profile of its own.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const DRIVER: &str = "/usr/bin/chromedriver";
const START_MAX: Duration = Duration::from_secs(60);

/// The browser; it ends with this.
#[derive(Debug)]
pub struct Browser {
    /// Its one window.
    pub page: Client,
    profile: tempfile::TempDir,
    driver: Child,
}

impl Browser {
    /// Starts one; none, said aloud, where there is no Chromium.
    pub async fn start() -> Option<Self> {
        if !Path::new(DRIVER).exists() || !Path::new("/usr/bin/chromium").exists() {
            eprintln!("SKIPPED: there is no browser; install chromium and chromium-driver (scripts/setup.sh)");
            return None;
        }
        let profile = tempfile::tempdir().expect("a directory");
        let mut driver = Command::new(DRIVER)
            .arg("--port=0")
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the driver starts");
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = tokio::time::timeout(START_MAX, async {
            while let Some(line) = lines.next_line().await.expect("readable") {
                if let Some((_, port)) = line.split_once("started successfully on port ") {
                    return port.trim_end_matches('.').parse::<u16>().expect("a port");
                }
            }
            panic!("the driver ended")
        });
        let port = port.await.expect("the driver starts in time");
        // Nobody reads on, and a full pipe must not stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let data = format!("--user-data-dir={}", profile.path().join("data").display());
        // Its own sandbox wants rights that root in a container does not have; the pages are ours.
        let args =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", &data];
        let wish = json!({"goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": args}});
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(wish.as_object().expect("an object").clone());
        let driver_url = format!("http://127.0.0.1:{port}");
        let page = tokio::time::timeout(START_MAX, builder.connect(&driver_url)).await.expect("in time");
        Some(Self { page: page.expect("the browser starts"), profile, driver })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.start_kill();
        // A driver that is killed leaves its browser; every process of it names the profile.
        let profile = self.profile.path().display().to_string();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&profile) {
                let _ = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            }
        }
    }
}
