//! Every row of the table in `recovery.rs`.

use super::*;
use crate::ledger::Step;

/// Makes a sandbox that runs with a mark in memory and on its disk, and kills the agent.
fn left_running() -> (Arc<World>, SandboxId) {
    let world = World::new();
    let agent = FakeAgent::start(&world, false);
    let id = new_id();
    agent.running(id);
    vm(&world, id).write_mark("mark");
    // What a start still does in the background is over when its files were synced.
    until("the start is settled", || !world.sandbox_dir(id).join("ledger.before").exists());
    agent.kill();
    (world, id)
}

fn left_paused() -> (Arc<World>, SandboxId) {
    let (world, id) = left_running();
    let agent = FakeAgent::start(&world, false);
    agent.wait_phase(id, Phase::Running).unwrap();
    pause(&agent, id, 1).unwrap();
    until("its VM is gone", || world.living().is_empty());
    agent.kill();
    (world, id)
}

fn rewrite(world: &World, id: SandboxId, change: impl FnOnce(&mut Ledger)) {
    let mut ledger = ledger(world, id);
    change(&mut ledger);
    ledger.write(&world.sandbox_dir(id)).unwrap();
}

#[track_caller]
fn recovers(world: &Arc<World>, id: SandboxId, phase: Phase) -> FakeAgent {
    let agent = FakeAgent::start(world, false);
    assert_eq!(agent.wait(id, |report| report.phase == phase).unwrap().phase, phase);
    agent
}

fn is_removed(world: &Arc<World>, id: SandboxId) {
    let agent = FakeAgent::start(world, false);
    assert!(agent.call(move |registry| async move { registry.report(id) }).unwrap().is_none());
    nothing_is_left(world);
}

fn both() -> (String, String) {
    ("mark".to_owned(), "mark".to_owned())
}

#[test]
fn begun_is_removed() {
    let (world, id) = left_running();
    rewrite(&world, id, |ledger| ledger.step = Step::Begun);
    is_removed(&world, id);
}

#[test]
fn no_ledger_is_removed() {
    let (world, id) = left_running();
    std::fs::remove_file(world.sandbox_dir(id).join("ledger.json")).unwrap();
    is_removed(&world, id);
}

#[test]
fn an_empty_ledger_is_removed_when_nothing_was_promised_before() {
    let (world, id) = left_running();
    std::fs::write(world.sandbox_dir(id).join("ledger.json"), "").unwrap();
    is_removed(&world, id);
}

#[test]
fn ready_with_its_vm_is_taken_over() {
    let (world, id) = left_running();
    let agent = recovers(&world, id, Phase::Running);
    assert_eq!(vm(&world, id).marks(), both());
    pause(&agent, id, 1).unwrap();
    resume(&agent, id, 2).unwrap();
    assert_eq!(vm(&world, id).marks(), both());
}

#[test]
fn ready_without_its_vm_has_crashed_with_its_disk() {
    let (world, id) = left_running();
    vm(&world, id).end();
    let agent = recovers(&world, id, Phase::Crashed);
    resume(&agent, id, 1).unwrap();
    assert_eq!(vm(&world, id).marks(), (String::new(), "mark".to_owned()));
}

#[test]
fn ready_without_its_network_has_crashed_with_its_disk() {
    let (world, id) = left_running();
    crate::mutex::lock(&world.slots).clear();
    recovers(&world, id, Phase::Crashed);
    assert!(world.living().is_empty(), "a VM that cannot be reached is ended");
}

#[test]
fn ready_after_a_reboot_has_crashed_with_its_disk() {
    let (world, id) = left_running();
    world.reboot();
    let agent = recovers(&world, id, Phase::Crashed);
    resume(&agent, id, 1).unwrap();
    assert_eq!(vm(&world, id).marks(), (String::new(), "mark".to_owned()));
}

#[test]
fn ready_with_a_token_no_header_can_carry_has_crashed() {
    let (world, id) = left_running();
    rewrite(&world, id, |ledger| ledger.token = "\n".to_owned());
    recovers(&world, id, Phase::Crashed);
}

#[test]
fn pausing_with_a_capture_that_counts_is_paused() {
    let (world, id) = left_running();
    let agent = recovers(&world, id, Phase::Running);
    agent.arm(crate::faults::Point::PauseCommitted, crate::fake::Victim::Agent);
    assert!(pause(&agent, id, 1).is_none(), "it died");
    assert_eq!(world.living().len(), 1);
    let agent = recovers(&world, id, Phase::Paused);
    assert!(world.living().is_empty(), "its VM is ended");
    resume(&agent, id, 2).unwrap();
    assert_eq!(vm(&world, id).marks(), both());
}

#[test]
fn pausing_without_a_capture_goes_on() {
    let (world, id) = left_running();
    let agent = recovers(&world, id, Phase::Running);
    agent.arm(crate::faults::Point::PauseSealed, crate::fake::Victim::Agent);
    assert!(pause(&agent, id, 1).is_none(), "it died");
    recovers(&world, id, Phase::Running);
    assert_eq!(vm(&world, id).marks(), both());
    let left = names(&world.sandbox_dir(id));
    assert!(!left.iter().any(|name| name.starts_with("capture-")), "{left:?}");
}

#[test]
fn paused_stays_paused_and_its_interrupted_resume_goes() {
    let (world, id) = left_paused();
    let agent = recovers(&world, id, Phase::Paused);
    agent.arm(crate::faults::Point::ResumeLoaded, crate::fake::Victim::Agent);
    assert!(resume(&agent, id, 2).is_none(), "it died");
    assert_eq!(world.living().len(), 1);
    let agent = recovers(&world, id, Phase::Paused);
    assert!(world.living().is_empty(), "the VM of the try is ended");
    let left = names(&world.sandbox_dir(id));
    assert!(!left.iter().any(|name| name == "disk" || name == "memory"), "{left:?}");
    resume(&agent, id, 3).unwrap();
    assert_eq!(vm(&world, id).marks(), both());
}

#[test]
fn paused_after_a_reboot_is_paused_and_its_memory_is_checked() {
    let (world, id) = left_paused();
    world.reboot();
    let agent = recovers(&world, id, Phase::Paused);
    resume(&agent, id, 2).unwrap();
    assert_eq!(vm(&world, id).marks(), both());
    pause(&agent, id, 3).unwrap();
    agent.kill();
    world.reboot();
    let capture = ledger(&world, id).capture_dir(&world.sandbox_dir(id));
    let memory = std::fs::File::options().write(true).open(capture.join("memory")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&memory, &[7], 4096).unwrap();
    let agent = recovers(&world, id, Phase::Paused);
    let refused = resume(&agent, id, 4).unwrap();
    assert!(refused.operation_failure.is_some(), "damaged memory is never given to a guest");
    assert_eq!(refused.phase, Phase::Paused);
}

#[test]
fn crashed_stays_crashed() {
    let (world, id) = left_running();
    vm(&world, id).end();
    recovers(&world, id, Phase::Crashed).kill();
    recovers(&world, id, Phase::Crashed);
}

#[test]
fn what_a_power_cut_left_of_a_ledger_is_crashed_with_the_disk() {
    let (world, id) = left_paused();
    let agent = recovers(&world, id, Phase::Paused);
    agent.arm(crate::faults::Point::ResumeNoted, crate::fake::Victim::Agent);
    assert!(resume(&agent, id, 2).is_none(), "it died");
    // The name is on disk, the bytes are not; what they replaced is.
    world.reboot();
    std::fs::write(world.sandbox_dir(id).join("ledger.json"), "").unwrap();
    let agent = recovers(&world, id, Phase::Crashed);
    resume(&agent, id, 3).unwrap();
    assert_eq!(vm(&world, id).marks().1, "mark");
}

#[test]
fn deleting_is_removed() {
    let (world, id) = left_running();
    rewrite(&world, id, |ledger| ledger.step = Step::Deleting);
    is_removed(&world, id);
}

#[test]
fn an_unreadable_ledger_is_set_aside_and_its_vm_ended() {
    let (world, id) = left_running();
    std::fs::write(world.sandbox_dir(id).join("ledger.json"), "{half").unwrap();
    is_removed(&world, id);
    assert_eq!(names(&world.dir().join("quarantine")).len(), 1);
}

#[test]
fn a_directory_that_is_no_sandbox_is_set_aside() {
    let world = World::new();
    drop(FakeAgent::start(&world, false));
    std::fs::create_dir(world.dir().join("sandboxes/odd")).unwrap();
    drop(FakeAgent::start(&world, false));
    assert_eq!(names(&world.dir().join("quarantine")), ["odd.0"]);
}

#[test]
fn a_ledger_with_the_words_of_an_earlier_agent_is_adopted() {
    let (world, id) = left_running();
    let path = world.sandbox_dir(id).join("ledger.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let old = text.replace("\"spec\":", "\"wish\":").replace("\"never_started\":", "\"unborn\":");
    assert_ne!(text, old);
    std::fs::write(&path, old).unwrap();
    recovers(&world, id, Phase::Running);
    assert_eq!(vm(&world, id).marks(), both());
}
