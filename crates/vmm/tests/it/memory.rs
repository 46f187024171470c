//! Captures: a machine written down while it lives on, and any number of machines started from it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wrenn_linux::files;
use wrenn_linux::private_pages::{self, PAGE_BYTES};
use wrenn_vmm::{
    CaptureRequest, CapturedMemory, ChangedPages, DeviceState, DiskSpec, Machine, PendingCapture, TakenCapture,
};

use super::harness::{Bench, MEMORY_MIB, hears, last};

const GONE: Duration = Duration::from_secs(10);

/// Held until a capture is finished: less than any guest here writes, so that both ways are taken.
const HELD_BYTES: usize = 2 << 20;

/// Begins a capture with a copy of what the machine's memory is mapped over.
async fn begin(bench: &Bench, machine: &Arc<dyn Machine>, name: &str) -> (PathBuf, Box<dyn PendingCapture>) {
    let (state_dir, memory) = (bench.path(&format!("{name}.state")), bench.path(&format!("{name}.memory")));
    std::fs::create_dir(&state_dir).unwrap();
    let base = machine.record().memory;
    if files::reflink(&base, &memory).is_err() {
        files::copy_sparse(&base, &memory).unwrap();
    }
    let request = CaptureRequest { state_dir, memory: memory.clone(), held_bytes_max: HELD_BYTES };
    (memory, machine.begin_capture(request).await.unwrap())
}

/// Takes a capture of a paused machine; it has to be finished.
async fn take(bench: &Bench, machine: &Arc<dyn Machine>, name: &str) -> (DeviceState, PathBuf, Box<dyn TakenCapture>) {
    let (memory, pending) = begin(bench, machine, name).await;
    let taken = pending.take().await.unwrap();
    let state = bench.state(name);
    assert_eq!(taken.state_files(), state.files, "every file of the state is named");
    (state, memory, taken)
}

async fn finish(taken: Box<dyn TakenCapture>) -> ChangedPages {
    match taken.finish().await.unwrap() {
        CapturedMemory::Changed(pages) => pages,
        CapturedMemory::Whole => panic!("this driver copies pages"),
    }
}

pub async fn capture(bench: &Bench, machine: &Arc<dyn Machine>, name: &str) -> (DeviceState, PathBuf, ChangedPages) {
    let (state, memory, taken) = take(bench, machine, name).await;
    (state, memory, finish(taken).await)
}

fn checksum(memory: &PathBuf) -> u64 {
    private_pages::checksum(&File::open(memory).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_goes_on_where_the_machine_was_and_the_machine_goes_on_too() {
    let Some(bench) = Bench::new("capture").await else { return };
    let machine = bench.boot("a").await;
    hears(&machine, 3).await;
    machine.pause().await.unwrap();
    let at = last(&machine).await.unwrap();
    let before = checksum(&machine.record().memory);
    let (state, memory, taken) = take(&bench, &machine, "one").await;
    assert_eq!(memory.metadata().unwrap().len(), u64::from(MEMORY_MIB) << 20);
    machine.resume().await.unwrap();
    assert_eq!(hears(&machine, at.count + 2).await.nonce, at.nonce);
    // What it wrote since it went on is not in its capture.
    let captured = finish(taken).await;
    assert_eq!(checksum(&memory), before.wrapping_add(captured.checksum_change));
    assert!(captured.written * PAGE_BYTES as u64 > 2 * HELD_BYTES as u64, "{captured:?}");

    let restored = bench.driver.restore(bench.spec("b", memory.clone()), state.clone()).await.unwrap();
    assert!(last(&restored).await.is_none(), "it is paused");
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
    let (_, pending) = begin(&bench, &machine, "s").await;
    assert!(pending.take().await.is_err());
    machine.pause().await.unwrap();
    let (state, memory, _) = capture(&bench, &machine, "base").await;
    machine.kill(GONE).await.unwrap();
    File::create(bench.path("b.disk")).unwrap().set_len(32 << 20).unwrap();
    let restored = bench.driver.restore(bench.spec("b", memory), state).await.unwrap();
    restored.resume().await.unwrap();
    assert!(restored.grow_disk(1, 32 << 20).await.is_err(), "it has one disk");
    restored.grow_disk(0, 32 << 20).await.unwrap();
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
    let (state, memory, taken) = take(&bench, &machine, "base").await;
    machine.kill(GONE).await.unwrap();
    let file = File::options().write(true).open(state.only_file().unwrap()).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    finish(taken).await;
    let refused = bench.driver.restore(bench.spec("b", memory.clone()), state.clone()).await;
    assert!(refused.is_err());
    assert_eq!(bench.vmms_below(bench.dir.path()), 0, "a VMM was left behind");
    // State of several files is another driver's.
    let state = DeviceState { files: vec!["devices".to_owned(), "config".to_owned()], ..state };
    assert!(bench.driver.restore(bench.spec("c", memory), state).await.is_err());
    assert_eq!(bench.vmms_below(bench.dir.path()), 0, "a VMM was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_that_waited_takes_any_capture_of_its_sizes_and_one_nobody_wants_ends() {
    let Some(bench) = Bench::new("early").await else { return };
    let prestart = bench.driver.prestart().expect("this QEMU can wait");
    let machine = bench.boot("a").await;
    let at = hears(&machine, 1).await;
    machine.pause().await.unwrap();
    let (state, memory, _) = capture(&bench, &machine, "one").await;
    machine.kill(GONE).await.unwrap();

    let spec = bench.spec("b", memory);
    let mut waiting = prestart.start(spec.frame).await.unwrap();
    assert!(waiting.is_alive());
    // Its directory may have another name by the time it is wanted.
    std::fs::rename(waiting.run_dir(), bench.path("moved")).unwrap();
    waiting.moved(bench.path("moved"));
    let restored = waiting.restore(spec.disks, spec.memory, state.clone()).await.unwrap();
    assert!(last(&restored).await.is_none(), "it is paused");
    restored.resume().await.unwrap();
    assert_eq!(hears(&restored, at.count).await.nonce, at.nonce);
    // It is captured like any other, and found again by its record.
    let record = restored.record();
    drop(restored);
    let again = bench.driver.adopt(record).await.unwrap().expect("it runs");
    again.pause().await.unwrap();
    capture(&bench, &again, "two").await;
    again.kill(GONE).await.unwrap();

    let users = || bench.vmms_below(&bench.path("c"));
    let mut frame = bench.spec("c", bench.path("none")).frame;
    frame.log = bench.path("c/vmm.log");
    let waiting = prestart.start(frame).await.unwrap();
    assert_eq!(users(), 1);
    drop(waiting);
    let ended = async {
        while users() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(GONE, ended).await.expect("its VMM ends");
    // What cannot be loaded ends its VMM as well.
    let mut frame = bench.spec("d", bench.path("none")).frame;
    frame.log = bench.path("c/vmm.log");
    let waiting = prestart.start(frame).await.unwrap();
    assert!(
        waiting.restore(vec![DiskSpec { path: bench.path("no.disk") }], bench.path("one.memory"), state).await.is_err()
    );
    assert_eq!(users(), 0);
}
