// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The binary as a person or a tool meets it: what it says when something is wrong, and what it leaves behind.

mod bad_input;
#[path = "../micro_guest/elf.rs"]
mod elf;
mod networks;
#[path = "../micro_guest/programs.rs"]
#[expect(dead_code, reason = "only some of the programs are run here")]
mod programs;
#[path = "../skip/mod.rs"]
mod skip;
mod terminal;

use std::process::{Command, Output};

/// `vmm` with arguments.
fn vmm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
    command.args(arguments);
    command
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_goes_to_standard_output_and_errors_do_not() {
    for arguments in
        [&["--help"][..], &["run", "--help"], &["doctor", "--help"], &["console", "--help"], &["--version"]]
    {
        let (status, out, err) = text(&vmm(arguments).output().unwrap());
        assert_eq!((status, err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(!out.is_empty(), "{arguments:?}");
    }
    let (status, out, err) = text(&vmm(&[]).output().unwrap());
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert!(err.contains("Usage: vmm"), "{err}");
}

#[test]
fn an_argument_that_is_no_text_is_an_error_like_any_other() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"\xff");
    for arguments in [&[odd][..], &["run".as_ref(), odd], &["run".as_ref(), "--kernel".as_ref(), odd]] {
        let output = Command::new(env!("CARGO_BIN_EXE_vmm")).args(arguments).output().unwrap();
        let (status, out, err) = text(&output);
        assert_eq!((status, out.as_str(), err.lines().count()), (Some(2), "", 1), "{err}");
    }
}

#[test]
fn the_doctor_speaks_json_that_says_the_same() {
    let (status, out, err) = text(&vmm(&["doctor", "--json"]).output().unwrap());
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(err, "");
    assert_eq!(status, Some(i32::from(!report["can_run"].as_bool().unwrap())));
    assert!(report["can_run_unmodified_kernels"].is_boolean());
    let (_, plain, _) = text(&vmm(&["doctor"]).output().unwrap());
    for check in report["checks"].as_array().unwrap() {
        assert!(plain.contains(check["name"].as_str().unwrap()), "{check}");
    }
}
