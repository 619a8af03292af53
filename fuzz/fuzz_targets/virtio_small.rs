// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Hands `vmm_fuzz::virtio_small` to libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm_fuzz::virtio_small::run(data));
