//! The machine's load, its ports, and the token in front of everything.

use std::net::TcpListener;
use std::process::{Command, Output};

use http::Method;
use serde_json::Value;

use super::*;
use crate::envd::{Wish, eventually};

#[tokio::test]
async fn no_route_answers_without_the_right_token() {
    let envd = Envd::start().await;
    let path = envd.home.path().join("file");
    fs::write(&path, "secret").unwrap();
    let mut routes: Vec<(Method, String)> =
        ["Stat", "MakeDir", "Move", "ListDir", "Remove", "WatchDir", "CreateWatcher"]
            .iter()
            .chain(&["GetWatcherEvents", "RemoveWatcher"])
            .map(|rpc| (Method::POST, format!("/filesystem.Filesystem/{rpc}")))
            .collect();
    routes.extend([Method::GET, Method::HEAD, Method::PUT, Method::POST].map(|method| (method, uri(&path))));
    for route in ["/metrics", "/activity", "/none"] {
        routes.push((Method::GET, route.into()));
    }
    routes.push((Method::POST, "/snapshot/prepare".into()));
    for (method, route) in routes {
        for token in [None, Some(""), Some("wrong"), Some("the-token-of-this-tesT")] {
            let json = ("content-type", "application/json");
            let headers: Vec<_> = token.map(|token| (TOKEN_HEADER, token)).into_iter().chain([json]).collect();
            let body = format!(r#"{{"path":"{}"}}"#, path.display());
            let answer = envd.call_bare(method.clone(), &route, &headers, body).await;
            assert_eq!(answer.status, 401, "{method} {route} {token:?} {answer:?}");
        }
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
    // Before there is a token nobody is let in at all.
    let fresh = Envd::start_uninitialised(Wish::default());
    assert_eq!(get(&fresh, &path, &[]).await.status, 401);
    assert_eq!(
        fresh.filesystem().stat(Default::default()).await.err().unwrap().code,
        connectrpc::ErrorCode::Unauthenticated
    );
}

#[tokio::test]
async fn metrics_and_activity_follow_what_happens() {
    let envd = Envd::start().await;
    let json = async |route: &str| {
        let answer = envd.call(Method::GET, route, &[], "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let number = |value: &Value, name: &str| value[name].as_f64().unwrap_or_else(|| panic!("{name} in {value}"));
    let first = json("/metrics").await;
    for (whole, part) in [("mem_total", "mem_used"), ("mem_total_mib", "mem_used_mib"), ("disk_total", "disk_used")] {
        assert!(number(&first, part) > 0.0 && number(&first, part) < number(&first, whole), "{first}");
    }
    assert_eq!(number(&first, "mem_total_mib"), (number(&first, "mem_total") / 1_048_576.0).floor());
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(number(&first, "cpu_count"), cpus as f64);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((number(&first, "ts") - now).abs() < 60.0);
    // With every CPU kept busy the share goes up; it is measured between two questions.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy: Vec<_> = (0..cpus)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || while !stop.load(std::sync::atomic::Ordering::Relaxed) {})
        })
        .collect();
    eventually("the load shows", async || {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let (metrics, activity) = (json("/metrics").await, json("/activity").await);
        assert!(number(&metrics, "cpu_used_pct") <= 100.0 && number(&activity, "cpu_used_pct") <= 100.0);
        number(&metrics, "cpu_used_pct") > 60.0 && number(&activity, "cpu_used_pct") > 60.0
    })
    .await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    let activity = json("/activity").await;
    assert!(number(&activity, "net_bps") >= 0.0 && number(&activity, "disk_bps") >= 0.0);
}

#[tokio::test]
async fn an_idle_envd_is_never_woken() {
    let envd = Envd::start().await;
    assert_eq!(envd.call(Method::GET, "/activity", &[], "").await.status, 200);
    let switches = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", envd.pid())).unwrap().flatten();
        let text = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
        text.map(|text| {
            text.lines().filter(|line| line.contains("ctxt_switches")).map(String::from).collect::<Vec<_>>()
        })
        .collect::<Vec<_>>()
    };
    // Threads that served the call go to sleep, idle ones of the file pool end; after that nothing moves.
    eventually("a second of stillness", async || {
        let before = switches();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        switches() == before
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_can_be_prepared() {
    let envd = Envd::start().await;
    assert_eq!(envd.call(Method::POST, "/snapshot/prepare", &[], "").await.status, 204);
}

fn ports(run_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_envd"))
        .env_clear()
        .arg("--run-dir")
        .arg(run_dir)
        .arg("ports")
        .args(arguments)
        .output()
        .expect("runs")
}

#[tokio::test]
async fn ports_lists_what_listens_in_a_sandbox_and_refuses_outside() {
    let nowhere = tempfile::tempdir().unwrap();
    let refused = ports(nowhere.path(), &[]);
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not a Wrenn sandbox"), "{refused:?}");

    let init = wrenn_contract::guest::Init { sandbox_id: Some("cl-one".into()), ..Default::default() };
    let envd = Envd::start_with(Wish { init, ..Wish::default() }).await;
    let run = envd.home.path().join("run");
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (open, lo, six) = (
        TcpListener::bind("0.0.0.0:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("[::1]:0"),
    );
    let other = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let listed = |arguments: &[&str]| -> Vec<(u64, String)> {
        let output = ports(&run, arguments);
        assert!(output.status.success(), "{output:?}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let row = |row: &Value| (row["port"].as_u64().unwrap(), row["url"].as_str().unwrap().to_owned());
        json.as_array().unwrap().iter().map(row).collect()
    };
    let all = listed(&["--json"]);
    assert!(all.is_sorted());
    for listener in [&open, &lo].into_iter().chain(six.as_ref().ok()) {
        let expected = (u64::from(port(listener)), format!("https://{}-cl-one.wrenn.dev", port(listener)));
        assert!(all.contains(&expected), "{expected:?} in {all:?}");
    }
    for absent in [port(&other), loopback] {
        assert!(!all.iter().any(|(port, _)| *port == u64::from(absent)), "{absent} in {all:?}");
    }
    let url = format!("https://{}-cl-one.my.domain", port(&open));
    assert!(listed(&["--json", "--domain", "my.domain"]).iter().any(|(_, one)| *one == url));
    let table = String::from_utf8(ports(&run, &["--domain", "my.domain"]).stdout).unwrap();
    assert!(table.starts_with("PORT  PROCESS ") && table.contains(&url), "{table}");
}
