// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The fuzz targets: one module a boundary, with the target's body in `run`. A body takes any bytes, and panics when an
//! invariant doesn't hold.
//!
//! `fuzz_targets/` hands the bodies to libFuzzer. The tests hand them the corpora and what a simple generator makes of
//! them, so that a target that no longer builds or a seed that fails is seen without a fuzzer.

#![forbid(unsafe_code)]

pub mod cmdline;
pub mod kernel;
pub mod legacy;
pub mod virtio_blk;
pub mod virtio_net;
pub mod virtio_pci;
pub mod virtio_small;

#[cfg(test)]
mod replay;
