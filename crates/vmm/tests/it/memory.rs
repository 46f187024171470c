//! Captures: a machine written down while it lives on, and any number of machines started from it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wrenn_linux::files;
use wrenn_linux::private_pages::{Copied, PAGE_BYTES};
use wrenn_vmm::{Captured, Driver, Machine, MachineState};

use super::harness::{Bench, MEMORY_MIB, hears, last};

const GONE: Duration = Duration::from_secs(10);

/// Held until a capture is finished: less than any guest here writes, so that both ways are taken.
const HELD_BYTES: usize = 2 << 20;

/// A copy of what its memory is mapped over; finished, with the machine's pages in it.
async fn begin(bench: &Bench, machine: &Arc<dyn Machine>, name: &str) -> (PathBuf, PathBuf, Captured) {
    let (state, memory) = (bench.path(&format!("{name}.state")), bench.path(&format!("{name}.memory")));
    let base = machine.record().memory;
    if files::reflink(&base, &memory).is_err() {
        files::copy_sparse(&base, &memory).unwrap();
    }
    let taker = machine.expect_capture(memory.clone(), HELD_BYTES).await.unwrap();
    let captured = machine.capture(state.clone(), taker).await.unwrap();
    (state, memory, captured)
}

async fn capture(bench: &Bench, machine: &Arc<dyn Machine>, name: &str) -> (PathBuf, PathBuf, Copied) {
    let (state, memory, captured) = begin(bench, machine, name).await;
    (state, memory, captured.finish().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_goes_on_where_the_machine_was_and_the_machine_goes_on_too() {
    let Some(bench) = Bench::new("capture").await else { return };
    let machine = bench.boot("a").await;
    hears(&machine, 3).await;
    machine.pause().await.unwrap();
    let at = last(&machine).await.unwrap();
    let (state, memory, captured) = begin(&bench, &machine, "one").await;
    assert_eq!(memory.metadata().unwrap().len(), u64::from(MEMORY_MIB) << 20);
    machine.resume().await.unwrap();
    assert_eq!(hears(&machine, at.count + 2).await.nonce, at.nonce);
    // What it wrote since it went on is not in its capture.
    let captured = captured.finish().unwrap();
    assert!(captured.written * PAGE_BYTES as u64 > 2 * HELD_BYTES as u64, "{captured:?}");

    let restored = bench.driver.restore(bench.spec("b", memory.clone()), state.clone()).await.unwrap();
    assert_eq!(restored.state().await.unwrap(), MachineState::Paused);
    restored.resume().await.unwrap();
    let first = hears(&restored, 0).await;
    assert_eq!(first.nonce, at.nonce, "a restore, not a reboot");
    assert!(first.count > at.count && first.count <= at.count + 2, "{first:?} after {at:?}");
    machine.kill(GONE).await.unwrap();

    // A capture of the restored one costs what it wrote since, and restores as well.
    restored.pause().await.unwrap();
    let later = last(&restored).await.unwrap();
    let (state2, memory2, again) = capture(&bench, &restored, "two").await;
    assert!(again.written + again.zero < captured.written / 2, "{again:?} after {captured:?}");
    restored.kill(GONE).await.unwrap();
    let third = bench.driver.restore(bench.spec("c", memory2), state2).await.unwrap();
    third.resume().await.unwrap();
    let said = hears(&third, later.count).await;
    assert_eq!(said.nonce, at.nonce);
    third.kill(GONE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_one_capture_never_change_it() {
    let Some(bench) = Bench::new("shared").await else { return };
    let machine = bench.boot("a").await;
    hears(&machine, 1).await;
    machine.pause().await.unwrap();
    let (state, memory, _) = capture(&bench, &machine, "base").await;
    machine.kill(GONE).await.unwrap();
    let before = std::fs::read(&memory).unwrap();
    for name in ["b", "c"] {
        let restored = bench.driver.restore(bench.spec(name, memory.clone()), state.clone()).await.unwrap();
        restored.resume().await.unwrap();
        let count = hears(&restored, 0).await.count;
        hears(&restored, count + 3).await;
        restored.kill(GONE).await.unwrap();
    }
    assert!(std::fs::read(&memory).unwrap() == before, "the shared memory file was written to");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_machine_is_not_captured_and_a_grown_disk_is_seen() {
    let Some(bench) = Bench::new("disk").await else { return };
    let machine = bench.boot("a").await;
    let said = hears(&machine, 1).await;
    assert_eq!(said.sectors, (16 << 20) / 512);
    let taker = machine.expect_capture(machine.record().memory, 0).await.unwrap();
    assert!(machine.capture(bench.path("s"), taker).await.is_err());
    machine.pause().await.unwrap();
    let (state, memory, _) = capture(&bench, &machine, "base").await;
    machine.kill(GONE).await.unwrap();
    File::create(bench.path("b.disk")).unwrap().set_len(32 << 20).unwrap();
    let restored = bench.driver.restore(bench.spec("b", memory), state).await.unwrap();
    restored.resume().await.unwrap();
    restored.grow_disk(32 << 20).await.unwrap();
    let grown = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let said = hears(&restored, last(&restored).await.map_or(0, |s| s.count)).await;
            if said.sectors == (32 << 20) / 512 {
                return;
            }
        }
    });
    grown.await.expect("the guest sees the new size");
    restored.kill(GONE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn torn_device_state_is_refused_and_no_vmm_is_left() {
    let Some(bench) = Bench::new("torn").await else { return };
    let machine = bench.boot("a").await;
    hears(&machine, 0).await;
    machine.pause().await.unwrap();
    let (state, memory, captured) = begin(&bench, &machine, "base").await;
    machine.kill(GONE).await.unwrap();
    File::options().write(true).open(&state).unwrap().set_len(captured.state_bytes / 2).unwrap();
    captured.finish().unwrap();
    let spec = bench.spec("b", memory);
    let mark = spec.frame.run_dir.display().to_string();
    assert!(bench.driver.restore(spec, state).await.is_err());
    assert!(wrenn_linux::process::with_file_below(&mark, Path::new(&mark)).is_empty(), "a VMM was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_that_waited_takes_any_capture_of_its_sizes_and_one_nobody_wants_ends() {
    let Some(bench) = Bench::new("blank").await else { return };
    let machine = bench.boot("a").await;
    let at = hears(&machine, 1).await;
    machine.pause().await.unwrap();
    let (state, memory, _) = capture(&bench, &machine, "one").await;
    machine.kill(GONE).await.unwrap();

    let spec = bench.spec("b", memory);
    let mut blank = bench.driver.prepare(spec.frame).await.unwrap().expect("this QEMU can wait");
    assert!(blank.is_alive());
    // Its directory may have another name by the time it is wanted.
    std::fs::rename(blank.run_dir(), bench.path("moved")).unwrap();
    blank.moved(bench.path("moved"));
    let restored = blank.restore(spec.disk, spec.memory, state.clone()).await.unwrap();
    assert_eq!(restored.state().await.unwrap(), MachineState::Paused);
    restored.resume().await.unwrap();
    assert_eq!(hears(&restored, at.count).await.nonce, at.nonce);
    // It is captured like any other, and found again by its record.
    let record = restored.record();
    drop(restored);
    let again = bench.driver.adopt(record).await.unwrap().expect("it runs");
    again.pause().await.unwrap();
    capture(&bench, &again, "two").await;
    again.kill(GONE).await.unwrap();

    let users = || {
        let mark = bench.path("c").display().to_string();
        wrenn_linux::process::with_file_below(&mark, Path::new(&mark)).len()
    };
    let mut frame = bench.spec("c", bench.path("none")).frame;
    frame.log = bench.path("c/vmm.log");
    let blank = bench.driver.prepare(frame).await.unwrap().expect("this QEMU can wait");
    assert_eq!(users(), 1);
    drop(blank);
    let ended = async {
        while users() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(GONE, ended).await.expect("its VMM ends");
    // What cannot be loaded ends its VMM as well.
    let mut frame = bench.spec("d", bench.path("none")).frame;
    frame.log = bench.path("c/vmm.log");
    let blank = bench.driver.prepare(frame).await.unwrap().expect("this QEMU can wait");
    assert!(blank.restore(bench.path("no.disk"), bench.path("one.memory"), state).await.is_err());
    assert_eq!(users(), 0);
}
