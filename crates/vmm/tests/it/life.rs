//! Boot, pause, resume, adoption, the end, the console.

use std::time::Duration;

use super::harness::{Bench, WAIT, hears, last};

const GONE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_boots_stands_still_while_paused_and_goes_on() {
    let Some(bench) = Bench::new("life").await else { return };
    let machine = bench.boot("a").await;
    let before = hears(&machine, 2).await;
    machine.pause().await.unwrap();
    let still = last(&machine).await.unwrap();
    // Whatever it could have said in this time it would have said to its console.
    assert!(tokio::time::timeout(Duration::from_millis(400), hears(&machine, still.count)).await.is_err());
    machine.resume().await.unwrap();
    let after = hears(&machine, still.count).await;
    assert_eq!(after.nonce, before.nonce);
    machine.kill(GONE).await.unwrap();
    tokio::time::timeout(WAIT, machine.ended()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_outlives_its_starter_and_is_taken_over_by_its_record() {
    let Some(bench) = Bench::new("adopt").await else { return };
    let machine = bench.boot("a").await;
    let before = hears(&machine, 1).await;
    let record = machine.record();
    drop(machine);
    assert_eq!((record.driver.as_str(), record.version.as_str()), (bench.driver.name(), bench.driver.version()));
    let foreign = wrenn_vmm::Record { driver: "another".to_owned(), ..record.clone() };
    let refused = bench.driver.adopt(foreign).await.err().expect("another driver's machine is refused");
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert_eq!(why, "it was started by another, not qemu");
    let again = bench.driver.adopt(record.clone()).await.unwrap().expect("it still runs");
    assert_eq!(hears(&again, before.count).await.nonce, before.nonce);
    again.kill(GONE).await.unwrap();
    assert!(bench.driver.adopt(record).await.unwrap().is_none(), "a machine that ended cannot be taken over");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_machine_is_noticed_without_asking() {
    let Some(bench) = Bench::new("end").await else { return };
    let machine = bench.boot("a").await;
    hears(&machine, 0).await;
    let pid = nix::unistd::Pid::from_raw(machine.record().process.pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    tokio::time::timeout(Duration::from_secs(2), machine.ended()).await.expect("noticed at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_keeps_its_newest_bytes_and_no_more() {
    let Some(bench) = Bench::new("console").await else { return };
    let machine = bench.boot("a").await;
    let said = hears(&machine, 5).await;
    let console = machine.console().await;
    assert!(console.len() <= 64 * 1024);
    assert!(String::from_utf8_lossy(&console).contains(&said.nonce));
    machine.kill(GONE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_is_found_by_its_owner_and_its_directory_whatever_that_is_called_by_now() {
    let Some(bench) = Bench::new("found").await else { return };
    let (first, second) = (bench.path("first"), bench.path("second"));
    std::fs::create_dir(&first).unwrap();
    let mut spec = bench.spec("a", bench.path("a.memory"));
    spec.frame.log = first.join("vmm.log");
    let machine = bench.driver.boot(spec).await.unwrap();
    assert_eq!(bench.vmms_below(&first), 1);
    std::fs::rename(&first, &second).unwrap();
    assert_eq!((bench.vmms_below(&first), bench.vmms_below(&second)), (0, 1));
    // Another owner has nothing here, and one directory is not another whose name it begins with.
    assert!(wrenn_vmm::find_vmms(&bench.path("another"), &second).is_empty());
    assert_eq!(bench.vmms_below(&bench.path("sec")), 0);
    let process = machine.record().process;
    assert!(wrenn_vmm::all_vmms().contains(&(bench.dir.path().to_owned(), process)));
    // Without its files it is still found where they were.
    std::fs::remove_dir_all(&second).unwrap();
    assert_eq!(bench.vmms_below(&second), 1);
    machine.kill(GONE).await.unwrap();
    assert_eq!(bench.vmms_below(&second), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_has_one_disk_and_another_number_is_refused_before_anything_starts() {
    let Some(bench) = Bench::new("disks").await else { return };
    for count in [0, 2] {
        let mut spec = bench.spec("a", bench.path("a.memory"));
        spec.disks = std::iter::repeat_n(spec.disks[0].clone(), count).collect();
        assert!(bench.driver.boot(spec).await.is_err(), "{count} disks");
        assert_eq!(bench.vmms_below(bench.dir.path()), 0);
    }
}
