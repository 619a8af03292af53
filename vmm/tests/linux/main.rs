// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Debian's stock kernel, booted to user space. `cargo xtask test` builds this program, ships it to where a KVM runs
//! unmodified kernels, and runs it there.

mod balloon;
mod block;
mod console;
mod disks;
mod ends;
mod full_host;
mod identity;
mod machines;
mod many;
#[path = "../../../devices/tests/mounted/mod.rs"]
mod mounted;
mod namespace;
mod net;
mod net_limits;
mod rates;
mod rig;
mod rng;
mod serial;
#[path = "../skip/mod.rs"]
#[expect(dead_code, reason = "these tests are only run where there is a KVM")]
mod skip;
#[path = "../../../devices/tests/sound/mod.rs"]
mod sound;
mod uki;
mod vhost;
mod vsock;
