//! `wrenn capsule pause|resume|snapshot|fork` and `wrenn template`.

use crate::world::World;

#[tokio::test]
async fn capsules_are_paused_and_resumed_several_at_once() {
    let world = World::start().await;
    let (one, two) = (world.done(&["capsule", "create"]).await, world.done(&["capsule", "create"]).await);
    assert_eq!(world.done(&["capsule", "pause", &one, &two]).await, format!("{one}\n{two}"));
    for id in [&one, &two] {
        assert_eq!(world.json(&["capsule", "get", id]).await["status"], "paused");
    }
    assert!(world.done(&["capsule", "list"]).await.contains("paused"));
    let resumed = world.json(&["capsule", "resume", &one, "--timeout", "90"]).await;
    assert_eq!((&resumed["status"], &resumed["timeout_sec"]), (&"running".into(), &90.into()));
    world.host.behave(|b| b.hold_resumes = true);
    assert_eq!(world.json(&["capsule", "resume", &two, "--no-wait"]).await["status"], "resuming");
}

#[tokio::test]
async fn what_does_not_work_is_said_and_the_others_go_on() {
    let world = World::start().await;
    let (good, gone) = (world.done(&["capsule", "create"]).await, "cl-0000000000000000000000000");
    let ran = world.run(&["capsule", "pause", gone, &good]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, good.as_str()), "{ran:?}");
    assert!(ran.err.contains("could not pause cl-0") && ran.err.contains("there is no capsule"), "{}", ran.err);
    world.host.behave(|b| b.fail_resumes = Some(("internal_error".to_owned(), "its memory is damaged".to_owned())));
    let said = world.refused(&["capsule", "resume", &good]).await;
    assert!(said.contains("it is paused") && said.contains("its memory is damaged"), "{said}");
    world.host.behave(|b| b.refuse_snapshot = Some(connectrpc::ErrorCode::ResourceExhausted));
    let said = world.refused(&["capsule", "snapshot", &good, "mine"]).await;
    assert!(said.contains("could not capture") && said.contains("no room"), "{said}");
    let said = world.refused(&["capsule", "snapshot", &good, "minimal"]).await;
    assert!(said.contains("choose another name"), "{said}");
}

#[tokio::test]
async fn a_snapshot_is_made_created_from_listed_and_removed() {
    let world = World::start().await;
    let id = world.done(&["capsule", "create"]).await;
    assert_eq!(world.done(&["capsule", "snapshot", &id, "mine"]).await, "mine");
    let unnamed = world.json(&["capsule", "snapshot", &id]).await["name"].as_str().expect("a name").to_owned();
    assert!(unnamed.starts_with("template-"), "{unnamed}");
    let child = world.json(&["capsule", "create", "mine"]).await;
    assert_eq!((&child["status"], &child["template"]), (&"running".into(), &"mine".into()));
    let list = world.done(&["template", "list", "--type", "snapshot"]).await;
    assert!(list.contains("mine") && list.contains(&unnamed) && !list.contains("minimal"), "{list}");
    assert_eq!(world.done(&["template", "rm", "mine", &unnamed]).await, format!("mine\n{unnamed}"));
    let said = world.refused(&["template", "rm", "mine"]).await;
    assert!(said.contains("could not remove mine"), "{said}");
    let said = world.refused(&["template", "rm", "minimal"]).await;
    assert!(said.contains("protected"), "{said}");
    assert!(world.done(&["template", "list", "--type", "snapshot"]).await.contains("capsule snapshot"));
}

#[tokio::test]
async fn a_fork_prints_its_children_and_tells_of_those_that_failed() {
    let world = World::start().await;
    let id = world.done(&["capsule", "create"]).await;
    let children = world.done(&["capsule", "fork", &id, "--count", "3"]).await;
    assert_eq!(children.lines().count(), 3, "{children}");
    for child in children.lines() {
        assert_eq!(world.json(&["capsule", "get", child]).await["status"], "running");
    }
    world.host.behave(|b| b.fail_children = 1);
    let ran = world.run(&["capsule", "fork", &id, "-n", "2"]).await;
    assert_eq!((ran.code, ran.out.lines().count()), (1, 1), "{ran:?}");
    assert!(ran.err.contains("a child was not made") && ran.err.contains("disk_full"), "{}", ran.err);
    let ran = world.run(&["--json", "capsule", "fork", &id, "-n", "2"]).await;
    let results: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((ran.code, results.as_array().map(Vec::len)), (1, Some(2)), "{ran:?}");
}
