//! `wrenn cp`, `exec` and `kill` against a real envd, which acts on a directory of this machine as on a guest's.

use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use crate::world::World;

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
}

#[tokio::test]
async fn a_file_keeps_its_mode_and_the_folders_on_its_way_are_made_both_ways() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.done(&["capsule", "create"]).await;
    let home = tempfile::tempdir().expect("a directory");
    let (here, there, back) = (home.path().join("here"), home.path().join("a/b/there"), home.path().join("c/d/back"));
    for bits in [0o755, 0o600] {
        std::fs::write(&here, "content").expect("written");
        chmod(&here, bits);
        world.done(&["cp", &here.display().to_string(), &format!("{id}:{}", there.display())]).await;
        assert_eq!(mode(&there), bits);
        world.done(&["cp", &format!("{id}:{}", there.display()), &back.display().to_string()]).await;
        assert_eq!((mode(&back), std::fs::read_to_string(&back).expect("read").as_str()), (bits, "content"));
    }
    let into = home.path().join("new folder/");
    world.done(&["cp", &format!("{id}:{}", there.display()), &format!("{}/", into.display())]).await;
    assert!(into.join("there").is_file(), "a slash at the end means a folder");
}

#[tokio::test]
async fn standard_input_and_output_are_sides_of_a_copy() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.done(&["capsule", "create"]).await;
    let home = tempfile::tempdir().expect("a directory");
    let target = format!("{id}:{}", home.path().join("piped").display());
    let mut program = world.program(&["cp", "-", &target]).stdin(Stdio::piped()).spawn().expect("starts");
    program.stdin.take().expect("piped").write_all(b"through a pipe").await.expect("written");
    assert!(program.wait().await.expect("ends").success());
    assert_eq!(world.done(&["cp", &target, "-"]).await, "through a pipe");
    let said = world.refused(&["cp", &format!("{id}:{}", home.path().display()), "-"]).await;
    assert!(said.contains("is a folder"), "{said}");
    let full = std::fs::File::options().write(true).open("/dev/full").expect("there");
    let lost = world.program(&["cp", &target, "-"]).stdout(full).stderr(Stdio::null()).status().await.expect("runs");
    assert_eq!(lost.code(), Some(1));
}

#[tokio::test]
async fn what_leads_elsewhere_in_the_capsule_is_written_into_and_a_socket_is_refused_by_name() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.done(&["capsule", "create"]).await;
    let home = tempfile::tempdir().expect("a directory");
    let there = |name: &str| format!("{id}:{}", home.path().join(name).display());
    std::fs::write(home.path().join("from"), "new").expect("written");
    let from = home.path().join("from").display().to_string();
    symlink("real", home.path().join("link")).expect("made");
    world.done(&["cp", &from, &there("link")]).await;
    assert!(home.path().join("link").is_symlink());
    assert_eq!(std::fs::read_to_string(home.path().join("real")).expect("read"), "new");
    world.done(&["cp", &from, &format!("{id}:/dev/null")]).await;
    assert!(std::fs::symlink_metadata("/dev/null").expect("there").file_type().is_char_device());
    let _socket = std::os::unix::net::UnixListener::bind(home.path().join("socket")).expect("bound");
    let said = world.refused(&["cp", &from, &there("socket")]).await;
    assert!(said.contains("a socket"), "{said}");
}

#[tokio::test]
async fn a_folder_with_something_unreadable_arrives_without_it_and_says_so() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.done(&["capsule", "create"]).await;
    let home = tempfile::tempdir().expect("a directory");
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    std::fs::create_dir_all(from.join("closed")).expect("made");
    std::fs::write(from.join("closed/inside"), "x").expect("written");
    chmod(&from.join("closed"), 0o555);
    std::fs::write(from.join("z"), "last").expect("written");
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).expect("bound");
    let ran = world.run(&["cp", &from.display().to_string(), &format!("{id}:{}", to.display())]).await;
    assert!(ran.code == 0 && ran.err.contains("is a socket and was left out"), "{ran:?}");
    assert_eq!(
        (mode(&to.join("closed")), to.join("closed/inside").is_file(), to.join("z").is_file()),
        (0o555, true, true)
    );
    let back = home.path().join("back");
    let answer = world.json(&["cp", &format!("{id}:{}", from.display()), &back.display().to_string()]).await;
    assert!(answer["notes"][0].as_str().is_some_and(|note| note.contains("socket")), "{answer}");
    assert_eq!(mode(&back.join("closed")), 0o555);
    for dir in [&from, &to, &back] {
        chmod(&dir.join("closed"), 0o755);
    }
}

#[tokio::test]
async fn exit_codes_of_the_tool_are_apart_and_a_time_out_gives_what_was_printed() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.done(&["capsule", "create"]).await;
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("text"), "no program").expect("written");
    let text = home.path().join("text").display().to_string();
    for (code, command) in [
        (127, vec!["exec", "-n", &id, "--", "no-such-program", "x"]),
        (126, vec!["exec", "-n", &id, "--", &text, "x"]),
        (125, vec!["exec", "-n", "-w", "/no/such/folder", &id, "--", "true", "x"]),
        (124, vec!["exec", "-n", "--timeout", "1", &id, "--", "sh", "-c", "echo before; sleep 1000"]),
        (3, vec!["exec", "-n", &id, "--", "sh", "-c", "exit 3"]),
        (2, vec!["exec", "-n", "-i", &id, "--", "true"]),
    ] {
        let ran = world.run(&command).await;
        assert_eq!(ran.code, code, "{command:?}: {ran:?}");
        assert!(code != 124 || ran.out == "before", "{ran:?}");
    }
    let gone = world.run(&["exec", "-n", "cl-0000000000000000000000000", "--", "true"]).await;
    assert_eq!(gone.code, 125, "{gone:?}");
}

#[tokio::test]
async fn processes_are_signalled_by_tag_and_by_any_spelling_of_the_signal() {
    let Some(world) = World::with_envd().await else { return };
    let id = world.done(&["capsule", "create"]).await;
    let trap = "trap 'exit 7' USR1; while :; do sleep 0.05; done";
    let started = world.json(&["exec", "-d", &id, "--", "sh", "-c", trap]).await;
    let tag = started["tag"].as_str().expect("a tag");
    world.done(&["kill", "-s", "usr1", &id, tag]).await;
    let ended = world.run(&["logs", "-f", &id, tag]).await;
    assert!(matches!(ended.code, 7 | 138), "the trap, or the shell before it was set: {ended:?}");
    let said = world.run(&["kill", "-s", "nope", &id, tag]).await;
    assert!(said.code == 2 && said.err.contains("SIGUSR1"), "{said:?}");
}
