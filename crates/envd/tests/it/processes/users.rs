//! Users: exactly the one asked for, with all its groups and none of envd's rights.

use wrenn_contract::guest::{Init, USER_HEADER};

use super::*;
use crate::envd::Wish;

/// What the system's own tool says of a user.
fn id(args: &[&str]) -> String {
    let output = std::process::Command::new("id").args(args).output().expect("id runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// A user of this machine with the most groups, to be sure that all are set.
fn sociable() -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("users");
    let names = passwd.lines().filter_map(|line| line.split(':').next());
    names.max_by_key(|name| id(&["-G", name]).split(' ').count()).expect("a user").to_owned()
}

#[tokio::test]
async fn a_process_has_its_users_ids_and_groups_exactly() {
    let envd = Envd::start().await;
    for user in ["nobody", "daemon", "root", &sociable()] {
        let said = run(&envd, as_user(user, program("id", &["-G"]))).await;
        assert_eq!(said.text().trim(), id(&["-G", user]), "{user}");
        let said = run(&envd, as_user(user, script("id -un; id -u; id -g; echo $HOME $USER $LOGNAME"))).await;
        let home = nix::unistd::User::from_name(user).expect("read").expect("a user").dir;
        let expected =
            format!("{user}\n{}\n{}\n{} {user} {user}\n", id(&["-u", user]), id(&["-g", user]), home.display());
        assert_eq!(said.text(), expected);
    }
    let said = run(&envd, as_user("nobody", program("id", &["-a"]))).await;
    assert_eq!(said.text().trim(), id(&["nobody"]));
}

#[tokio::test]
async fn no_right_of_root_is_left() {
    let envd = Envd::start().await;
    let text = "grep -E '^(Uid|Gid|CapInh|CapPrm|CapEff|CapAmb)' /proc/self/status";
    let said = run(&envd, as_user("nobody", script(text))).await;
    let none = "0000000000000000";
    for line in said.text().lines() {
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        let expected = if line.starts_with("Cap") { vec![none] } else { vec![words[0]; 4] };
        assert!(words == expected && words[0] != "0", "{line}");
    }
    let secret = envd.home.path().join("secret");
    std::fs::write(&secret, "x").expect("written");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    for attempt in [
        format!("cat {}", secret.display()),
        "touch /root/x".to_owned(),
        "chroot / true".to_owned(),
        "kill -0 1".to_owned(),
        format!("kill -0 {}", envd.pid()),
        "echo -999 > /proc/self/oom_score_adj".to_owned(),
    ] {
        let said = run(&envd, as_user("nobody", script(&attempt))).await;
        assert_ne!(said.code(), 0, "{attempt}: {said:?}");
    }
}

#[tokio::test]
async fn the_directory_is_entered_with_the_users_rights_and_a_missing_home_is_no_obstacle() {
    let envd = Envd::start().await;
    let closed = envd.home.path().join("closed");
    std::fs::create_dir(&closed).expect("made");
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("set");
    std::fs::set_permissions(envd.home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let closed = closed.to_str().expect("text").to_owned();
    let there = |request| with(request, |_, config: &mut ProcessConfig| config.cwd = Some(closed.clone()));
    let error = refused(&envd.processes(), there(as_user("nobody", script("pwd")))).await;
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    let text = error.to_string();
    assert!(text.contains(&closed) && text.contains("nobody"), "{text}");
    assert_eq!(run(&envd, there(script("pwd"))).await.text().trim(), closed);
    // nobody's home does not exist.
    assert!(!nix::unistd::User::from_name("nobody").expect("read").expect("a user").dir.exists());
    assert_eq!(run(&envd, as_user("nobody", script("pwd"))).await.text(), "/\n");
}

#[tokio::test]
async fn the_user_is_the_requests_then_the_headers_then_the_default() {
    let init = Init { default_user: Some("daemon".to_owned()), ..Init::default() };
    let envd = Envd::start_with(Wish { init, ..Wish::default() }).await;
    for (headers, user, expected) in [
        (&[][..], None, "daemon"),
        (&[], Some(""), "daemon"),
        (&[(USER_HEADER, "nobody")], None, "nobody"),
        (&[(USER_HEADER, "nobody")], Some("root"), "root"),
        // "nobody:" as E2B clients send it.
        (&[("authorization", "Basic bm9ib2R5Og==")], None, "nobody"),
        (&[("authorization", "Basic cm9vdDo="), (USER_HEADER, "nobody")], None, "nobody"),
    ] {
        let request = with(program("id", &["-un"]), |_, config| config.user = user.map(str::to_owned));
        let mut events = start(&envd.processes_with(headers), request).await;
        events.pid().await;
        assert_eq!(events.rest().await.text().trim(), expected, "{headers:?} {user:?}");
    }
}
