//! One life after another, without interruption.

use std::sync::atomic::Ordering;

use super::*;
use crate::failure::ErrorCode;
use crate::sandbox::Refusal;
use crate::start_load::starts_max;

#[test]
fn a_sandbox_is_created_paused_resumed_and_deleted_and_leaves_nothing() {
    let world = World::new();
    let agent = FakeAgent::start(&world, false);
    let id = new_id();
    agent.running(id);
    vm(&world, id).write_mark("one");
    let first = agent.create(id).expect("it lives");
    assert_eq!(first.phase, Phase::Running, "creating twice returns the sandbox there is");
    assert_eq!(pause(&agent, id, 1).unwrap().phase, Phase::Paused);
    until("its VM ends", || world.living().is_empty());
    assert_eq!(resume(&agent, id, 2).unwrap().phase, Phase::Running);
    assert_eq!(vm(&world, id).marks(), ("one".to_owned(), "one".to_owned()));
    assert_eq!(resume(&agent, id, 2).unwrap().operation_failure, None, "asked again, answered again");
    delete(&agent, id);
    nothing_is_left(&world);
    let late = agent.call(move |registry| async move { registry.create(crate::ledger::SandboxSpec::empty(id)).await });
    assert!(matches!(late, Some(Err(Refusal::Deleted))), "a late create does not bring it back");
}

#[test]
fn a_vm_that_ends_by_itself_leaves_a_crashed_sandbox_that_boots_from_its_disk() {
    let world = World::new();
    let agent = FakeAgent::start(&world, false);
    let id = new_id();
    agent.running(id);
    let before = vm(&world, id);
    before.write_mark("kept");
    before.end();
    let crashed = agent.wait_phase(id, Phase::Crashed).unwrap();
    assert!(crashed.reason.is_some_and(|why| why.code == ErrorCode::AgentError && why.message.contains("last line")));
    let refused = pause(&agent, id, 1).unwrap();
    assert_eq!(refused.operation_failure.map(|failure| failure.code), Some(ErrorCode::InvalidState));
    let back = resume(&agent, id, 2).unwrap();
    assert_eq!(back.metadata.get("resumed_from").map(String::as_str), Some("disk"));
    assert_eq!(vm(&world, id).marks(), (String::new(), "kept".to_owned()));
    delete(&agent, id);
    nothing_is_left(&world);
}

#[test]
fn children_of_a_fork_begin_where_their_source_was_running_or_paused() {
    let world = World::new();
    let agent = FakeAgent::start(&world, false);
    let source = new_id();
    agent.running(source);
    vm(&world, source).write_mark("shared");
    for operation in [1, 2] {
        let children = vec![new_id(), new_id()];
        let asked = children.clone();
        let forked = agent.call(move |registry| async move { registry.fork(source, asked).await }).unwrap().unwrap();
        assert!(forked.children.iter().all(|(_, made)| made.is_ok()), "{forked:?}");
        let asked = children.clone();
        let again = agent.call(move |registry| async move { registry.fork(source, asked).await }).unwrap().unwrap();
        assert!(again.children.iter().all(|(_, made)| made.is_ok()), "no second instant is taken");
        for child in children {
            agent.wait_phase(child, Phase::Running).unwrap();
            assert_eq!(vm(&world, child).marks(), ("shared".to_owned(), "shared".to_owned()));
            assert_ne!(ledger(&world, child).token, ledger(&world, source).token);
            delete(&agent, child);
        }
        if operation == 1 {
            pause(&agent, source, operation).unwrap();
        }
    }
    delete(&agent, source);
    nothing_is_left(&world);
}

#[test]
fn a_child_that_was_deleted_before_it_was_made_stays_deleted() {
    let world = World::new();
    let agent = FakeAgent::start(&world, false);
    let (source, child) = (new_id(), new_id());
    agent.running(source);
    agent.call(move |registry| async move { registry.delete(child) }).unwrap();
    let forked = agent.call(move |registry| async move { registry.fork(source, vec![child]).await }).unwrap();
    assert_eq!(agent.wait_phase(child, Phase::Gone).unwrap().phase, Phase::Gone, "{:?}", forked.is_ok());
    delete(&agent, source);
    nothing_is_left(&world);
}

#[test]
fn a_snapshot_of_a_running_and_of_a_paused_sandbox_can_be_started_from_after_both_are_gone() {
    let world = World::new();
    let agent = FakeAgent::start(&world, false);
    let source = new_id();
    agent.running(source);
    vm(&world, source).write_mark("saved");
    for operation in [1, 2] {
        let name = format!("{operation:032x}");
        let asked = name.clone();
        agent.call(move |registry| async move { registry.snapshot(source, asked).await }).unwrap().unwrap();
        if operation == 1 {
            pause(&agent, source, operation).unwrap();
        }
    }
    delete(&agent, source);
    for operation in [1, 2] {
        let (id, name) = (new_id(), format!("{operation:032x}"));
        let spec = crate::ledger::SandboxSpec {
            template: "minimal".to_owned(),
            vcpus: 1,
            memory_mib: 16,
            disk_mib: 4,
            snapshot: Some(name.clone()),
            ..crate::ledger::SandboxSpec::empty(id)
        };
        agent.call(move |registry| async move { registry.create(spec).await }).unwrap().unwrap();
        agent.wait_phase(id, Phase::Running).unwrap();
        assert_eq!(vm(&world, id).marks(), ("saved".to_owned(), "saved".to_owned()));
        delete(&agent, id);
        agent.call(move |registry| async move { registry.delete_snapshot(&name).await }).unwrap().unwrap();
    }
    assert_eq!(names(&world.dir().join("snapshots")), Vec::<String>::new());
    nothing_is_left(&world);
}

#[test]
fn with_pools_a_create_takes_a_loaded_guest_and_a_resume_a_started_vmm() {
    let world = World::new();
    let agent = FakeAgent::start(&world, true);
    let warm = || agent.call(|registry| async move { registry.pools.warm_vms.ready() }).expect("it lives") > 0;
    let prestarted = || {
        let ready =
            agent.call(|registry| async move { registry.pools.prestarted_vmms.as_ref().map(|pool| pool.ready()) });
        ready.expect("it lives").is_some_and(|ready| ready > 0)
    };
    until("a guest is loaded ahead of time", || warm() && prestarted());
    let id = new_id();
    let spec = crate::ledger::SandboxSpec {
        template: "minimal".to_owned(),
        vcpus: 1,
        memory_mib: 128,
        disk_mib: 2,
        ..crate::ledger::SandboxSpec::empty(id)
    };
    let waiting: Vec<i32> = world.living().iter().filter(|vm| vm.has_guest()).map(|vm| vm.pid).collect();
    agent.call(move |registry| async move { registry.create(spec).await }).unwrap().unwrap();
    agent.wait_phase(id, Phase::Running).unwrap();
    assert!(waiting.contains(&vm(&world, id).pid), "it is one that waited");
    vm(&world, id).write_mark("pooled");
    pause(&agent, id, 1).unwrap();
    until("a VMM waits", prestarted);
    let waiting: Vec<i32> = world.living().iter().filter(|vm| !vm.has_guest()).map(|vm| vm.pid).collect();
    resume(&agent, id, 2).unwrap();
    assert!(waiting.contains(&vm(&world, id).pid), "it is one that waited");
    assert_eq!(vm(&world, id).marks(), ("pooled".to_owned(), "pooled".to_owned()));
    delete(&agent, id);
    agent.kill();
    // What the first one made ahead of time goes with it.
    let next = FakeAgent::start(&world, false);
    nothing_is_left(&world);
    drop(next);
}

#[test]
fn guests_that_never_answer_keep_no_other_from_starting() {
    let world = World::new();
    let agent = FakeAgent::start(&world, false);
    world.makes_silent.store(true, Ordering::Relaxed);
    let silent: Vec<_> = (0..2 * starts_max()).map(|_| new_id()).collect();
    for id in &silent {
        agent.create(*id).expect("it lives");
    }
    until("every VMM runs", || world.living().len() == silent.len());
    world.makes_silent.store(false, Ordering::Relaxed);
    agent.running(new_id());
    for id in silent {
        let report = agent.call(move |registry| async move { registry.report(id) }).expect("it lives");
        assert_eq!(report.expect("it is known").phase, Phase::Starting);
    }
}
