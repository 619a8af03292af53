// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Runs the bodies over the corpora and over some thousand changed copies of what is in them: the same ones every time.

use std::{fs, path::Path};

/// A target by the name of its corpus, and how many changed inputs it gets.
type Target = (&'static str, fn(&[u8]), usize);

const TARGETS: &[Target] = &[
    ("cmdline", crate::cmdline::run, 20_000),
    ("kernel", crate::kernel::run, 2_000),
    ("legacy", crate::legacy::run, 5_000),
    ("virtio_blk", crate::virtio_blk::run, 2_000),
    ("virtio_net", crate::virtio_net::run, 1_000),
    ("virtio_pci", crate::virtio_pci::run, 2_000),
    ("virtio_small", crate::virtio_small::run, 2_000),
];

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// Flips, overwrites, cuts, doubles or drops some of the bytes.
    fn mutate(&mut self, input: &mut Vec<u8>) {
        for _ in 0..=self.below(6) {
            let at = self.below(input.len());
            let Some(byte) = input.get_mut(at) else { return };
            match self.below(8) {
                0 => *byte ^= 1 << self.below(8),
                1 => *byte = [0, 1, 0x7f, 0x80, 0xff, b'"', b' ', b'-'][self.below(8)],
                2 => input.truncate(at),
                3 => drop(input.remove(at)),
                4 => input.insert(at, self.0 as u8),
                5 => {
                    let end = input.len().min(at + 8);
                    input[at..end].fill([0, 0xff][self.below(2)]);
                }
                _ => *byte = self.0 as u8,
            }
        }
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn the_bodies_hold_over_their_corpora_and_what_comes_of_them() {
    for (name, run, rounds) in TARGETS {
        let seeds = corpus(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        run(&[]);
        seeds.iter().for_each(|seed| run(seed));
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        for _ in 0..*rounds {
            let mut input = seeds[random.below(seeds.len())].clone();
            random.mutate(&mut input);
            run(&input);
        }
    }
}
