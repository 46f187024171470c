//! What runs, and with what around it.

use http::Method;
use wrenn_contract::guest::Init;

use super::*;
use crate::envd::Wish;

#[tokio::test]
async fn both_streams_and_the_code_come_back() {
    let envd = Envd::start().await;
    let said = run(&envd, script("echo out; echo err >&2; exit 42")).await;
    assert_eq!((said.text().as_str(), said.stderr.as_slice()), ("out\n", b"err\n".as_slice()));
    let end = End { exit_code: 42, exited: true, status: "exit status: 42".to_owned(), signal: None };
    assert_eq!(said.end, Some(end));
}

#[tokio::test]
async fn an_end_by_signal_says_so() {
    let envd = Envd::start().await;
    for (number, status) in [(9, "signal: 9 (SIGKILL)"), (15, "signal: 15 (SIGTERM)"), (40, "signal: 40")] {
        let said = run(&envd, script(&format!("kill -{number} $$"))).await;
        let end = End { exit_code: -1, exited: false, status: status.to_owned(), signal: Some(number) };
        assert_eq!(said.end, Some(end));
    }
}

#[tokio::test]
async fn a_program_is_executed_directly_and_in_a_session_of_its_own() {
    let envd = Envd::start().await;
    let said = run(&envd, program("cat", &["/proc/self/stat"])).await;
    let stat = said.text();
    let pid = stat.split(' ').next().expect("a pid").to_owned();
    let after: Vec<_> = stat.rsplit_once(") ").expect("a stat line").1.split(' ').collect();
    // State, parent, group, session: nothing is between it and envd.
    assert_eq!(after[1..4], [envd.pid().to_string().as_str(), &pid, &pid]);
}

#[tokio::test]
async fn a_lone_command_is_a_line_for_the_users_shell() {
    let envd = Envd::start().await;
    let said = run(&envd, program("for i in 1 2; do echo $i; done | tr 12 ab && echo \"~$0\"", &[])).await;
    assert!(said.text().starts_with("a\nb\n~/"), "{said:?}");
}

#[tokio::test]
async fn no_command_is_the_users_login_shell() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut events = start(&client, program("", &[])).await;
    let shell = events.pid().await;
    feed(&client, pid(shell), "echo $0; exit 3\n").await.expect("fed");
    let said = events.rest().await;
    assert!(said.text().lines().last().is_some_and(|name| name.starts_with('-')), "{said:?}");
    assert_eq!(said.code(), 3);
}

#[tokio::test]
async fn the_environment_is_what_was_asked_for_and_nothing_else() {
    let init = Init { env_vars: envs(&[("A", "init"), ("B", "init")]), ..Init::default() };
    let envd = Envd::start_with(Wish { init, ..Wish::default() }).await;
    let request = with(program("env", &["-0"]), |_, config| {
        config.envs.extend([("B".to_owned(), "b c\n=d".to_owned()), ("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
    });
    let said = run(&envd, request).await;
    let text = said.text();
    let mut env: Vec<_> = text.split_terminator('\0').collect();
    env.sort_unstable();
    let shell = env.iter().find(|line| line.starts_with("SHELL=/")).copied().expect("a shell");
    let expected = [
        "A=init",
        "B=b c\n=d",
        "HOME=/root",
        "LOGNAME=root",
        "PATH=/usr/bin:/bin",
        shell,
        "USER=root",
        "WRENN_SANDBOX=true",
    ];
    assert_eq!(env, expected);
}

#[tokio::test]
async fn the_program_is_looked_for_along_the_path_it_is_given() {
    let envd = Envd::start().await;
    let dir = envd.home.path().join("bin");
    std::fs::create_dir(&dir).expect("made");
    std::fs::write(dir.join("hello"), "#!/bin/sh\necho hello $1\n").expect("written");
    std::fs::set_permissions(dir.join("hello"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let path = format!("/no/such:{}", dir.display());
    let request = with(program("hello", &["you"]), |_, config| {
        config.envs.insert("PATH".to_owned(), path);
    });
    assert_eq!(run(&envd, request).await.text(), "hello you\n");
}

#[tokio::test]
async fn directories_are_absolute_below_the_home_or_the_default() {
    let init = Init { default_workdir: Some("/usr/lib".to_owned()), ..Init::default() };
    let envd = Envd::start_with(Wish { init, ..Wish::default() }).await;
    for (cwd, expected) in [(None, "/usr/lib"), (Some("/usr"), "/usr"), (Some("~"), "/root"), (Some("."), "/root")] {
        let request = with(program("/bin/pwd", &["-P"]), |_, config| config.cwd = cwd.map(str::to_owned));
        assert_eq!(run(&envd, request).await.text().trim(), expected, "{cwd:?}");
    }
}

#[tokio::test]
async fn nothing_of_envd_is_inherited() {
    let envd = Envd::start().await;
    // While other processes have pipes and a terminal open.
    let client = envd.processes();
    let mut others = Vec::new();
    for request in [script("sleep 1000"), on_terminal(80, 24, script("sleep 1000"))] {
        let mut other = start(&client, request).await;
        other.pid().await;
        others.push(other);
    }
    let said = run(&envd, program("ls", &["/proc/self/fd"])).await;
    assert_eq!(said.text(), "0\n1\n2\n3\n", "3 is ls reading the directory");
    let said = run(&envd, program("grep", &["-E", "^Sig(Blk|Ign|Cgt)|^NoNewPrivs", "/proc/self/status"])).await;
    let values: Vec<_> =
        said.text().lines().map(|line| line.split_whitespace().nth(1).expect("a value").to_owned()).collect();
    let none = "0000000000000000";
    assert_eq!((values[0].as_str(), values[1].as_str(), values[3].as_str()), (none, none, "0"), "{said:?}");
    assert_eq!(run(&envd, script("umask; cat /proc/self/oom_score_adj")).await.text(), "0022\n100\n");
}

#[tokio::test]
async fn processes_are_born_in_a_cgroup_of_their_own_which_is_used_again() {
    let envd = Envd::start().await;
    let Some(cgroup) = &envd.cgroup else { return eprintln!("SKIPPED: this machine lets us make no cgroup") };
    let own = cgroup.file_name().expect("a name").to_str().expect("text");
    for turn in 0..5 {
        let said = run(&envd, script("grep ^0: /proc/self/cgroup")).await;
        assert_eq!(said.text(), format!("0::/{own}/wrenn/user/1\n"), "turn {turn}");
    }
    let said = run(&envd, on_terminal(80, 24, script("grep ^0: /proc/self/cgroup"))).await;
    assert_eq!(String::from_utf8_lossy(&said.pty), format!("0::/{own}/wrenn/pty/1\r\n"));
}

#[tokio::test]
async fn running_processes_are_listed_as_they_were_asked_for_and_ended_ones_are_not() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let request = with(tagged("napper", program("/bin/sleep", &["1000"])), |_, config| {
        config.envs.insert("A".to_owned(), "b".to_owned());
        config.cwd = Some("/usr".to_owned());
        config.user = Some("root".to_owned());
    });
    let mut events = start(&client, request.clone()).await;
    let napper = events.pid().await;
    let listed = list(&client).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].pid, listed[0].tag.as_deref()), (napper, Some("napper")));
    assert_eq!(listed[0].config.as_option(), request.process.as_option());
    signal(&client, tag("napper"), Signal::SIGNAL_SIGTERM).await.expect("signalled");
    assert_eq!(events.rest().await.end.expect("an end").signal, Some(15));
    // Who heard of the end finds it gone, and its tag free.
    assert!(list(&client).await.is_empty());
    run(&envd, tagged("napper", script("true"))).await;
}

#[tokio::test]
async fn one_tag_is_one_running_process() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut first = start(&client, tagged("one", script("sleep 1000"))).await;
    first.pid().await;
    let error = refused(&client, tagged("one", script("true"))).await;
    assert_eq!(error.code, ErrorCode::AlreadyExists, "{error}");
    // A start that failed keeps no tag.
    refused(&client, tagged("two", program("/no/such", &["x"]))).await;
    run(&envd, tagged("two", script("true"))).await;
    // Of many at once exactly one wins.
    let starts =
        futures::future::join_all((0..8).map(|_| client.start(detached(tagged("three", script("sleep 1000")))))).await;
    let mut won = 0;
    for started in starts {
        match started {
            Ok(stream) => match Events::Started(stream).next().await {
                Ok(_) => won += 1,
                Err(error) => assert_eq!(error.code, ErrorCode::AlreadyExists),
            },
            Err(error) => assert_eq!(error.code, ErrorCode::AlreadyExists),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn json_clients_are_served_too() {
    let envd = Envd::start().await;
    let header = [("content-type", "application/json")];
    let answer = envd.call(Method::POST, "/process.Process/List", &header, "{}").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "{}"));
    let missing = envd
        .call(
            Method::POST,
            "/process.Process/SendSignal",
            &header,
            r#"{"process":{"pid":4000000},"signal":"SIGNAL_SIGKILL"}"#,
        )
        .await;
    assert_eq!((missing.status.as_u16(), missing.json()["code"].as_str()), (404, Some("not_found")));
    let body = br#"{"process":{"cmd":"/bin/echo","args":["hi"]}}"#;
    let mut framed = vec![0];
    framed.extend(u32::try_from(body.len()).expect("small").to_be_bytes());
    framed.extend(body);
    let header = [("content-type", "application/connect+json")];
    let answer = envd.call(Method::POST, "/process.Process/Start", &header, framed).await;
    let text = String::from_utf8_lossy(&answer.body);
    for part in [r#""start":{"pid":"#, r#""stdout":"aGkK""#, r#""exited":true"#, r#""status":"exit status: 0""#] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn a_small_command_is_quick() {
    let envd = Envd::start().await;
    let client = envd.processes();
    let mut times = Vec::new();
    for _ in 0..100 {
        let began = std::time::Instant::now();
        let mut events = start(&client, program("/bin/true", &["x"])).await;
        events.pid().await;
        assert_eq!(events.rest().await.code(), 0);
        times.push(began.elapsed());
    }
    times.sort();
    eprintln!("/bin/true from call to end: median {:?}, slowest {:?}", times[50], times[99]);
    // A shell around it, or a wait for silence after its end, would be far above.
    assert!(times[50] < std::time::Duration::from_millis(100), "{:?}", times[50]);
}
