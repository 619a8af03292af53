// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What of this host is ready for VMs, and what to do about what isn't.

mod kvm;
mod probe;
mod system;

use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Ready.
    Ok,
    /// Missing, and only some features need it.
    Warning,
    /// Missing, and no VM can run without it.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it, or what follows from it, where it isn't ready.
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), advice: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, status: Status::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    fn failure(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, status: Status::Failure, found: found.into(), advice: Some(advice.into()) }
    }
}

/// The state of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether a VM can run.
    pub can_run: bool,
    /// Whether a kernel that knows nothing of this host's KVM can be expected to boot: not so where KVM has no hardware
    /// virtualization under it.
    pub can_run_unmodified_kernels: bool,
    /// Everything that was looked at.
    pub checks: Vec<Check>,
}

/// Whether the processor's virtualization is there, as this machine sees it.
pub fn has_hardware_virtualization() -> bool {
    kvm::hardware().0
}

/// Looks at this host. Changes nothing.
pub fn examine() -> Report {
    let (hardware, hardware_check) = kvm::hardware();
    let mut checks = kvm::checks();
    let can_run = checks.iter().all(|check| check.status != Status::Failure);
    checks.insert(0, hardware_check);
    checks.extend(system::checks());
    Report { can_run, can_run_unmodified_kernels: can_run && hardware, checks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_miss_comes_with_advice_and_nothing_else_does() {
        let report = examine();
        for check in &report.checks {
            assert_eq!(check.advice.is_some(), check.status != Status::Ok, "{check:?}");
            assert!(!check.found.is_empty() && !check.found.contains('\n'), "{check:?}");
        }
        let failed = report.checks.iter().any(|check| check.status == Status::Failure);
        assert_eq!(report.can_run, !failed);
    }

    #[test]
    fn the_report_names_all_that_was_asked_for() {
        let names: Vec<_> = examine().checks.iter().map(|check| check.name).collect();
        for name in [
            "hardware virtualization",
            "/dev/kvm",
            "tap networks",
            "passt",
            "vhost-net",
            "vhost-vsock",
            "io_uring",
            "userfaultfd",
            "seccomp",
            "landlock",
            "huge pages",
            "cgroups",
        ] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
    }
}
