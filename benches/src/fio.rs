// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The same load by fio (<https://fio.readthedocs.io>), a judge of disks that isn't ours: what a host can give is measured
//! with it elsewhere, so its numbers are there to compare.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::disk::{Load, Outcome};

/// Whether fio can be run. What is said when it can't has the cure in it.
pub fn look() -> Result<()> {
    match Command::new("fio").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("fio is missing: install it with: apt-get install --no-install-recommends --yes fio")
        }
        Ok(output) => bail!("fio doesn't run: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => bail!("fio doesn't run: {error}"),
    }
}

/// One job by `io_uring` on the image for about `time`.
pub fn run(image: &Path, direct: bool, load: Load, time: Duration) -> Result<Outcome> {
    let rw = match (load.random, load.write) {
        (true, false) => "randread",
        (true, true) => "randwrite",
        (false, false) => "read",
        (false, true) => "write",
    };
    let output = Command::new("fio")
        .args(["--name=limit", "--ioengine=io_uring", "--time_based", "--output-format=json"])
        // As our loop does: any place again and again, from the page cache as it is, and the file as it is.
        .args(["--norandommap", "--invalidate=0", "--allow_file_create=0", "--overwrite=1"])
        .args([format!("--rw={rw}"), format!("--bs={}", load.block), format!("--iodepth={}", load.depth)])
        .args([format!("--direct={}", u8::from(direct)), format!("--runtime={}ms", time.as_millis())])
        .arg(format!("--filename={}", image.display()))
        .output()
        .context("fio doesn't run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "fio: {}", said.trim());
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("fio: {}", said.trim()))?;
    outcome(&report, load.write).context("fio's report is not as it was in version 3.33")
}

/// Requests a second, and the processor time of each: fio gives that in parts of the run.
fn outcome(report: &Value, write: bool) -> Option<Outcome> {
    let job = report.get("jobs")?.get(0)?;
    let side = job.get(if write { "write" } else { "read" })?;
    let (iops, requests) = (side.get("iops")?.as_f64()?, side.get("total_ios")?.as_f64()?);
    let run = side.get("runtime")?.as_f64()? / 1e3;
    let busy = (job.get("usr_cpu")?.as_f64()? + job.get("sys_cpu")?.as_f64()?) / 100.0;
    Some(Outcome { iops, cpu: Duration::try_from_secs_f64(run * busy / requests.max(1.0)).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_requests_a_second_and_the_time_of_each() {
        let report = serde_json::json!({"jobs": [{
            "read": {"iops": 1000.0, "total_ios": 500, "runtime": 500},
            "write": {"iops": 0.0, "total_ios": 0, "runtime": 0},
            "usr_cpu": 15.0, "sys_cpu": 35.0,
        }]});
        let outcome = outcome(&report, false).unwrap();
        assert_eq!((outcome.iops, outcome.cpu), (1000.0, Duration::from_micros(500)));
        assert!(super::outcome(&serde_json::json!({"jobs": []}), false).is_none());
    }
}
