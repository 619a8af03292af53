// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! iperf3 (<https://software.es.net/iperf/>), a judge of networks that isn't ours.

use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{ADDRESSES, Cable, Load};
use crate::boot::PATIENCE;
use crate::process::{self, Running};

/// What the receiving side has seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Report {
    /// Gbit a second, or datagrams a second.
    pub(super) rate: f64,
    /// Gbit, or datagrams.
    pub(super) count: f64,
}

pub(super) fn look() -> Result<()> {
    match Command::new("iperf3").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("iperf3 is missing: install it with: apt-get install --no-install-recommends --yes iperf3")
        }
        Ok(output) => bail!("iperf3 doesn't run: {}", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => bail!("iperf3 doesn't run: {error}"),
    }
}

/// From the first end of the cable to the second.
pub(super) fn run(cable: &Cable, load: Load, seconds: u64) -> Result<Report> {
    let patience = Duration::from_secs(seconds) + PATIENCE;
    let start = |arguments: &[&str]| {
        let mut command = Command::new("iperf3");
        command.args(arguments);
        process::end_with_us(&mut command);
        Running::start(&mut command)
    };
    let mut server = cable.at(1, || start(&["--server", "--one-off", "--forceflush"]))?;
    server.wait_for(b"Server listening").context("iperf3 as a server")?;
    let (seconds, number) = match load {
        Load::Streams(number) | Load::Datagrams(number) => (seconds.to_string(), number.to_string()),
    };
    let mut arguments = vec!["--client", ADDRESSES[1], "--json", "--time", &seconds];
    match load {
        Load::Streams(_) => arguments.extend(["--parallel", &number]),
        Load::Datagrams(_) => arguments.extend(["--udp", "--bitrate", "0", "--length", &number]),
    }
    let mut client = cable.at(0, || start(&arguments))?;
    client.allow(patience);
    // What went wrong is in the report, too.
    let said = client.output().context("iperf3 as a client")?;
    let report: Value = serde_json::from_slice(&said).context("iperf3 gave no report")?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    parse(&report, load).context("iperf3's report is not as it was in version 3.12")
}

fn parse(report: &Value, load: Load) -> Option<Report> {
    let end = report.get("end")?;
    match load {
        Load::Streams(_) => {
            let sum = end.get("sum_received")?;
            let (rate, bytes) = (sum.get("bits_per_second")?.as_f64()?, sum.get("bytes")?.as_f64()?);
            Some(Report { rate: rate / 1e9, count: bytes * 8.0 / 1e9 })
        }
        Load::Datagrams(_) => {
            let sum = end.get("sum")?;
            let number = |name: &str| sum.get(name)?.as_f64();
            let arrived = number("packets")? - number("lost_packets")?;
            Some(Report { rate: arrived / number("seconds")?, count: arrived })
        }
    }
    .filter(|report| report.count > 0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_becomes_what_has_arrived() {
        let report = json!({"end": {
            "sum_sent": {"bytes": 3_000_000_000u64, "bits_per_second": 9e9},
            "sum_received": {"bytes": 2_500_000_000u64, "bits_per_second": 8e9},
        }});
        assert_eq!(parse(&report, Load::Streams(8)), Some(Report { rate: 8.0, count: 20.0 }));
        let report = json!({"end": {"sum": {"seconds": 2.0, "packets": 1000, "lost_packets": 400}}});
        assert_eq!(parse(&report, Load::Datagrams(64)), Some(Report { rate: 300.0, count: 600.0 }));
        assert_eq!(parse(&report, Load::Streams(1)), None);
        assert_eq!(parse(&json!({}), Load::Datagrams(64)), None);
    }
}
