//! Agent and VMM die at every named step of every operation. Afterwards a sandbox runs, is paused, or has crashed with its disk:
//! never gone, and never memory of one moment with the disk of another.

use super::*;
use crate::fake::Victim;
use crate::faults::Point;
use crate::ledger::SandboxSpec;

/// The command during which a step is passed. A full match: a new step must be put in its place here.
fn operation(point: Point) -> &'static str {
    use Point as P;
    match point {
        P::CreateMoved => "create from a pool",
        P::CreateBegun
        | P::CreateLinked
        | P::CreateLoaded
        | P::CreateRunning
        | P::CreateInitialized
        | P::CreateNoted => "create",
        P::PauseRequested
        | P::PauseFrozen
        | P::PauseWritten
        | P::PauseSealed
        | P::PauseCommitted
        | P::PauseNoted
        | P::PauseReleased => "pause",
        P::ResumeRequested
        | P::ResumeLinked
        | P::ResumeLoaded
        | P::ResumeRunning
        | P::ResumeInitialized
        | P::ResumeNoted => "resume",
        P::SnapshotFrozen | P::SnapshotWritten | P::SnapshotThawed | P::SnapshotSealed | P::SnapshotCommitted => {
            "snapshot"
        }
        P::ForkCaptured | P::ForkFirstChild | P::ForkMade => "fork",
    }
}

/// Whether there is a VMM to be killed at this step. A full match: see `operation`.
fn has_vmm(point: Point) -> bool {
    use Point as P;
    match point {
        P::CreateMoved | P::CreateLoaded | P::CreateRunning | P::CreateInitialized | P::CreateNoted => true,
        P::PauseRequested | P::PauseFrozen | P::PauseWritten | P::PauseSealed | P::PauseCommitted | P::PauseNoted => {
            true
        }
        P::ResumeLoaded | P::ResumeRunning | P::ResumeInitialized | P::ResumeNoted => true,
        P::SnapshotFrozen | P::SnapshotWritten | P::SnapshotThawed | P::SnapshotSealed => true,
        P::CreateBegun | P::CreateLinked | P::PauseReleased | P::ResumeRequested | P::ResumeLinked => false,
        P::SnapshotCommitted | P::ForkCaptured | P::ForkFirstChild | P::ForkMade => false,
    }
}

fn is_settled(report: &Report) -> bool {
    matches!(report.phase, Phase::Running | Phase::Paused | Phase::Crashed | Phase::Failed)
}

/// Does the work; the agent may die of it.
fn work(agent: &FakeAgent, id: SandboxId, point: Point, child: SandboxId) {
    match operation(point) {
        "create from a pool" => {
            let spec = SandboxSpec {
                template: "minimal".to_owned(),
                vcpus: 1,
                memory_mib: 128,
                disk_mib: 2,
                ..SandboxSpec::empty(id)
            };
            drop(agent.call(move |registry| async move { registry.create(spec).await }));
            drop(agent.wait(id, is_settled));
        }
        "create" => drop(agent.create(id).and_then(|_| agent.wait(id, is_settled))),
        "pause" => drop(pause(agent, id, 10)),
        "resume" => drop(resume(agent, id, 10)),
        "snapshot" => drop(agent.call(move |registry| async move { registry.snapshot(id, "0".repeat(32)).await })),
        "fork" => drop(agent.call(move |registry| async move { registry.fork(id, vec![child, new_id()]).await })),
        other => panic!("no work for {other}"),
    }
}

fn is_pooled(world: &World) -> bool {
    names(&world.dir().join("templates")).len() == 1 && world.living().iter().any(|vm| vm.has_guest())
}

fn strike(point: Point, victim: Victim) {
    let world = World::new();
    let from_pool = operation(point) == "create from a pool";
    let mut agent = FakeAgent::start(&world, from_pool);
    let (mut id, child) = (new_id(), new_id());
    if from_pool {
        // A guest that is still being loaded is given back when the agent dies, and is of no use here.
        until("a guest is loaded ahead of time", || is_pooled(&world));
    }
    if !operation(point).starts_with("create") {
        agent.running(id);
        vm(&world, id).write_mark("before");
        if operation(point) == "resume" {
            pause(&agent, id, 1).expect("it lives");
        }
    }
    agent.arm(point, victim);
    work(&agent, id, point, child);
    // A loaded guest is there only a moment after it was made, or after the one before was taken.
    let end = Instant::now() + Duration::from_secs(20);
    while from_pool && !agent.has_struck() && Instant::now() < end {
        delete(&agent, id);
        id = new_id();
        work(&agent, id, point, child);
    }
    until("the fault strikes", || agent.has_struck());
    if victim == Victim::Agent {
        until("the agent is dead", || agent.is_dead());
        agent = FakeAgent::start(&world, false);
    }
    check(&world, &agent, id, point, victim);
    for report in agent.call(|registry| async move { registry.list(0, Duration::ZERO).await.1 }).expect("it lives") {
        delete(&agent, report.spec.id);
    }
    if !from_pool {
        nothing_is_left(&world);
    }
}

fn check(world: &World, agent: &FakeAgent, id: SandboxId, point: Point, victim: Victim) {
    let known = agent.call(move |registry| async move { registry.report(id) }).expect("it lives");
    let Some(known) = known else {
        assert!(operation(point).starts_with("create"), "only what was never promised may be gone");
        assert_ne!(point, Point::CreateNoted, "it was promised");
        return;
    };
    let settled = agent.wait(known.spec.id, is_settled).expect("it lives");
    if operation(point).starts_with("create") {
        let may_fail = victim == Victim::Vmm;
        assert!(settled.phase == Phase::Running || may_fail, "{settled:?}");
        return;
    }
    assert_ne!(settled.phase, Phase::Failed);
    assert!(settled.phase != Phase::Crashed || victim == Victim::Vmm, "its VM was alive: {settled:?}");
    // Whatever it is now, it comes back.
    let back = resume(agent, id, 100).expect("it lives");
    let back = if back.phase == Phase::Running { back } else { resume(agent, id, 101).expect("it lives") };
    assert_eq!(back.phase, Phase::Running, "{back:?}");
    let (memory, disk) = vm(world, id).marks();
    assert_eq!(disk, "before");
    let from_disk = back.metadata.get("resumed_from").is_some_and(|from| from == "disk");
    assert_eq!(memory, if from_disk { "" } else { "before" });
    assert!(!from_disk || victim == Victim::Vmm, "memory was lost although only the agent died");
    for report in agent.call(|registry| async move { registry.list(0, Duration::ZERO).await.1 }).expect("it lives") {
        let child = report.spec.id;
        if child != id && agent.wait(child, is_settled).expect("it lives").phase == Phase::Running {
            assert_eq!(vm(world, child).marks(), ("before".to_owned(), "before".to_owned()), "a child is whole");
        }
    }
}

macro_rules! points {
    ($($agent:ident $(, $vmm:ident)? = $point:ident;)*) => {
        /// Every step has its test here: a full match, so that a new one is not forgotten.
        #[test]
        fn every_step_has_its_test() {
            let tested = [$(Point::$point),*];
            assert_eq!(tested.len(), Point::ALL.len());
            assert!(Point::ALL.iter().all(|point| tested.contains(point)));
            let with_vmm = [$($(stringify!($vmm),)?)*].len();
            assert_eq!(with_vmm, Point::ALL.iter().filter(|point| has_vmm(**point)).count());
        }
        $(
            #[test]
            fn $agent() {
                strike(Point::$point, Victim::Agent);
            }
            $(
                #[test]
                fn $vmm() {
                    strike(Point::$point, Victim::Vmm);
                }
            )?
        )*
    };
}

points! {
    agent_dies_when_a_create_is_begun = CreateBegun;
    agent_dies_when_a_warm_disk_is_moved, vmm_dies_when_a_warm_disk_is_moved = CreateMoved;
    agent_dies_when_a_create_is_linked = CreateLinked;
    agent_dies_when_a_create_is_loaded, vmm_dies_when_a_create_is_loaded = CreateLoaded;
    agent_dies_when_a_created_guest_runs, vmm_dies_when_a_created_guest_runs = CreateRunning;
    agent_dies_when_a_created_guest_has_confirmed, vmm_dies_when_a_created_guest_has_confirmed = CreateInitialized;
    agent_dies_when_a_create_is_noted, vmm_dies_when_a_create_is_noted = CreateNoted;
    agent_dies_when_a_pause_is_requested, vmm_dies_when_a_pause_is_requested = PauseRequested;
    agent_dies_when_a_pausing_guest_is_frozen, vmm_dies_when_a_pausing_guest_is_frozen = PauseFrozen;
    agent_dies_when_a_pause_is_written, vmm_dies_when_a_pause_is_written = PauseWritten;
    agent_dies_when_a_pause_is_sealed, vmm_dies_when_a_pause_is_sealed = PauseSealed;
    agent_dies_when_a_pause_is_committed, vmm_dies_when_a_pause_is_committed = PauseCommitted;
    agent_dies_when_a_pause_is_noted, vmm_dies_when_a_pause_is_noted = PauseNoted;
    agent_dies_when_a_pause_is_released = PauseReleased;
    agent_dies_when_a_resume_is_requested = ResumeRequested;
    agent_dies_when_a_resume_is_linked = ResumeLinked;
    agent_dies_when_a_resume_is_loaded, vmm_dies_when_a_resume_is_loaded = ResumeLoaded;
    agent_dies_when_a_resumed_guest_runs, vmm_dies_when_a_resumed_guest_runs = ResumeRunning;
    agent_dies_when_a_resumed_guest_has_confirmed, vmm_dies_when_a_resumed_guest_has_confirmed = ResumeInitialized;
    agent_dies_when_a_resume_is_noted, vmm_dies_when_a_resume_is_noted = ResumeNoted;
    agent_dies_when_a_snapshot_is_frozen, vmm_dies_when_a_snapshot_is_frozen = SnapshotFrozen;
    agent_dies_when_a_snapshot_is_written, vmm_dies_when_a_snapshot_is_written = SnapshotWritten;
    agent_dies_when_a_snapshot_is_thawed, vmm_dies_when_a_snapshot_is_thawed = SnapshotThawed;
    agent_dies_when_a_snapshot_is_sealed, vmm_dies_when_a_snapshot_is_sealed = SnapshotSealed;
    agent_dies_when_a_snapshot_is_committed = SnapshotCommitted;
    agent_dies_when_a_fork_is_captured = ForkCaptured;
    agent_dies_when_a_first_child_is_made = ForkFirstChild;
    agent_dies_when_a_fork_is_made = ForkMade;
}
