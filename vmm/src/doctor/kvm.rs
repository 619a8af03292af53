// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What decides whether a VM can run at all.

use std::fs::File;
use std::io::{BufRead, BufReader};

use kvm_ioctls::Kvm;

use super::Check;
use crate::build::KvmError;
use crate::kvm;

/// Whether the processor's virtualization is there, as this machine sees it.
pub(super) fn hardware() -> (bool, Check) {
    const NAME: &str = "hardware virtualization";
    let cpuinfo = File::open("/proc/cpuinfo").ok();
    match cpuinfo.and_then(|cpuinfo| feature(BufReader::new(cpuinfo))) {
        Some(feature) => (true, Check::ok(NAME, feature)),
        None => {
            let found = "no vmx and no svm in /proc/cpuinfo";
            let advice = "unmodified kernels are not expected to boot, whatever /dev/kvm says: use a machine with \
                          (nested) virtualization, or a KVM host in software: 'cargo xtask testbed' in vmm's source";
            (false, Check::warning(NAME, found, advice))
        }
    }
}

/// Reads no further than to the first processor's flags: the rest is long, and slow to make, where there are many.
fn feature(cpuinfo: impl BufRead) -> Option<&'static str> {
    let flags = cpuinfo.lines().map_while(Result::ok).find(|line| line.starts_with("flags"))?;
    flags.split_whitespace().find_map(|flag| match flag {
        "vmx" => Some("vmx (Intel)"),
        "svm" => Some("svm (AMD)"),
        _ => None,
    })
}

pub(super) fn checks() -> Vec<Check> {
    let device = match Kvm::new() {
        Ok(device) => device,
        Err(error) => return vec![fault("/dev/kvm", &KvmError::from_errno(error.errno()))],
    };
    let mut checks = vec![Check::ok("/dev/kvm", "can be opened")];
    checks.push(match kvm::open() {
        Ok(_) => Check::ok("KVM API", format!("version 12, all {} capabilities that are needed", kvm::NEEDED.len())),
        Err(error) => fault("KVM API", &error),
    });
    checks.push(match kvm::new_vm(&device) {
        Ok(_) => Check::ok("KVM VMs", format!("up to {} vCPUs each", kvm::max_vcpus(&device))),
        Err(error) => fault("KVM VMs", &error),
    });
    checks
}

/// An error of ours is what was found, and behind a colon what to do.
fn fault(name: &'static str, error: &KvmError) -> Check {
    let text = error.to_string();
    let (found, advice) = text.split_once(": ").unwrap_or((&text, "look at the kernel's log: 'dmesg | grep -i kvm'"));
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    // The check's name stands before it already.
    let found = found.strip_prefix("/dev/kvm ").filter(|_| name == "/dev/kvm").unwrap_or(found);
    Check::failure(name, format!("{found}{cause}"), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmx_and_svm_are_found_as_words() {
        assert_eq!(feature(&b"flags\t\t: fpu vmx sse\n"[..]), Some("vmx (Intel)"));
        assert_eq!(feature(&b"model name : svm\nflags\t\t: fpu svm_lock svm\n"[..]), Some("svm (AMD)"));
        assert_eq!(feature(&b"flags\t\t: fpu svm_lock\n"[..]), None);
        assert_eq!(feature(&b""[..]), None);
    }

    #[test]
    fn an_error_is_split_into_what_was_found_and_what_to_do() {
        let check = fault("/dev/kvm", &KvmError::from_errno(libc::EACCES));
        assert_eq!(check.found, "may not be opened by this user");
        assert!(check.advice.unwrap().starts_with("add this user to the kvm group"));
    }
}
