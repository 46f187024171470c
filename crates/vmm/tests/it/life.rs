//! Boot, pause, resume, taking hold again, the end; console and balloon.

use std::time::Duration;

use wrenn_vmm::{Driver, MachineState};

use super::harness::{Bench, MEMORY_MIB, WAIT, hears, last};

const GONE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_boots_stands_still_while_paused_and_goes_on() {
    let Some(bench) = Bench::new("life").await else { return };
    let machine = bench.boot("a").await;
    let before = hears(&machine, 2).await;
    assert_eq!(machine.state().await.unwrap(), MachineState::Running);
    machine.pause().await.unwrap();
    assert_eq!(machine.state().await.unwrap(), MachineState::Paused);
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
async fn a_balloon_takes_memory_and_a_machine_without_one_says_so() {
    let Some(bench) = Bench::new("balloon").await else { return };
    let mut spec = bench.spec("a", bench.path("a.memory"));
    spec.balloon = true;
    let machine = bench.driver.boot(spec).await.unwrap();
    hears(&machine, 1).await;
    machine.resize_balloon(MEMORY_MIB / 2).await.unwrap();
    machine.kill(GONE).await.unwrap();
    let plain = bench.boot("b").await;
    assert!(plain.resize_balloon(MEMORY_MIB / 2).await.is_err());
    plain.kill(GONE).await.unwrap();
}
