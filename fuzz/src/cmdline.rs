// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any bytes as a command line.

use boot::cmdline::{self, Error};

/// Checks `data` and looks for parameters in it.
///
/// # Panics
///
/// When what is found contradicts what is there.
pub fn run(data: &[u8]) {
    let limit = data.first().map_or(0, |byte| usize::from(*byte) * 16);
    match cmdline::check(data, limit) {
        Ok(()) => assert!(data.len() <= limit && !data.contains(&0)),
        Err(Error::Nul(at)) => assert_eq!(data[at], 0),
        Err(Error::TooLong { length, limit: taken }) => {
            assert!(length == data.len() && taken == limit && length > limit);
        }
        Err(other) => panic!("an error that isn't known here: {other}"),
    }

    let closed = data.iter().filter(|byte| **byte == b'"').count().is_multiple_of(2);
    let for_init = data.windows(2).any(|window| window == b"--");
    for name in ["root", "console", "a-b"] {
        let found = cmdline::has_parameter(data, name);
        if found {
            assert!(contains(data, name), "{name} isn't in there");
        }
        // What follows a closed command line changes nothing that was found in it, and is found if nothing stops it.
        if closed {
            let with = |tail: &str| [data, b" ", tail.as_bytes()].concat();
            assert_eq!(cmdline::has_parameter(with("x=\"root console a-b"), name), found);
            if !for_init {
                assert!(cmdline::has_parameter(with(&format!("{name}=1")), name));
            }
        }
    }
}

/// Whether the name's bytes are there at all, where a dash and an underscore are the same.
fn contains(data: &[u8], name: &str) -> bool {
    let dash = |byte: &u8| if *byte == b'-' { b'_' } else { *byte };
    let name: Vec<_> = name.as_bytes().iter().map(dash).collect();
    data.iter().map(dash).collect::<Vec<_>>().windows(name.len()).any(|window| window == name)
}
