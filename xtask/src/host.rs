// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether this machine's own KVM will do.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::process;

/// Asks `vmm doctor` whether this machine's KVM runs kernels as they are. When in doubt, it doesn't.
pub(crate) fn runs_unmodified_kernels(vmm: &Path) -> bool {
    let answer = process::caught(Command::new(vmm).args(["doctor", "--json"]));
    answer.is_ok_and(|output| says_yes(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether the processor can run guests. Without that, the testbed will be wanted.
pub(crate) fn has_virtualization() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpuinfo.split_whitespace().any(|word| word == "vmx" || word == "svm")
}

fn says_yes(answer: &str) -> bool {
    let report: Value = serde_json::from_str(answer).unwrap_or_default();
    report["can_run_unmodified_kernels"] == true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_counts() {
        assert!(says_yes("{\"can_run_unmodified_kernels\": true, \"checks\": []}"));
        for answer in
            ["", "vmm", "{}", "{\"can_run_unmodified_kernels\": false}", "{\"can_run_unmodified_kernels\": \"true\"}"]
        {
            assert!(!says_yes(answer), "{answer}");
        }
    }
}
