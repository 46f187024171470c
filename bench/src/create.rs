//! A capsule from the request to its first successful command, made new and resumed, against the same VM started by the bare VMM: restored as Wrenn
//! does it, and booted as others do.

use std::time::Instant;

use crate::Bench;
use crate::bare::Bare;
use crate::report::{Bound, Report, percentile_ms};
use crate::rest::Rest;

/// Of a capsule that is asked for without sizes.
const MEMORY_MIB: u32 = 512;

/// Runs the section.
pub fn run(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let (creates, boots) = (bench.runs(20), bench.runs(10));
    bench.stack.wait_prepared()?;
    let (ours, resumed, restored, booted, same) = tokio::runtime::Runtime::new()?.block_on(async {
        let bare = Bare::new(&bench.stack.store(), &bench.builds, MEMORY_MIB).await?;
        let mut rest = Rest::connect(bench.stack).await?;
        let mut booted = Vec::new();
        let mut last = None;
        for _ in 0..boots {
            if let Some(machine) = last.take() {
                Bare::end(machine).await?;
            }
            let (time, machine) = bare.boot().await?;
            booted.push(time);
            last = Some(machine);
        }
        let last = last.ok_or_else(|| anyhow::anyhow!("no boot"))?;
        // As a template: everything the boot left to do is done.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let saved = bare.save(&last).await?;
        let (mut ours, mut resumed, mut restored, mut same) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..creates {
            let (time, machine) = bare.restore(&saved).await?;
            restored.push(time);
            Bare::end(machine).await?;
            let begin = Instant::now();
            let id = rest.create_until_exec().await?;
            ours.push(begin.elapsed());
            rest.pause(&id).await?;
            let back = bare.come_back(&capture_of(bench, &id)?).await?;
            same.push(back.took);
            bare.end_back(back).await?;
            let begin = Instant::now();
            rest.resume_until_exec(&id).await?;
            resumed.push(begin.elapsed());
            rest.remove(&id).await?;
        }
        anyhow::Ok((ours, resumed, restored, booted, same))
    })?;
    for (percentile, bound) in [(50, Some(Bound::AtMost(1.3))), (99, None)] {
        let value = percentile_ms(&ours, percentile);
        let floors = [("restored", &restored, creates), ("booted", &booted, boots)];
        for (how, floor, _) in floors {
            let name = format!("create to first exec, p{percentile}; floor: the bare VMM, {how}");
            report.against(&name, "ms", value, percentile_ms(floor, percentile), bound, creates);
        }
        let (value, floor) = (percentile_ms(&resumed, percentile), percentile_ms(&restored, percentile));
        // Information, not judged: another guest that only has to write a line does not do the same work. See docs/decisions/0007-spares.md.
        let name = format!("resume to first exec, p{percentile}; the least there is: the bare VMM, restored");
        report.against(&name, "ms", value, floor, None, creates);
        let floor = percentile_ms(&same, percentile);
        let name = format!(
            "resume to first exec, p{percentile}; floor: the bare VMM, restored from the same files, the same exec by its envd"
        );
        report.against(&name, "ms", value, floor, bound, creates);
    }
    Ok(())
}

/// Where a paused capsule is.
pub fn capture_of(bench: &Bench, id: &str) -> anyhow::Result<std::path::PathBuf> {
    let dir = bench.stack.store().join("sandboxes").join(id);
    let entries = std::fs::read_dir(&dir)?.flatten().map(|entry| entry.path());
    let mut captures = entries.filter(|path| path.join("manifest.json").exists());
    captures.next().ok_or_else(|| anyhow::anyhow!("no capture in {}", dir.display()))
}
