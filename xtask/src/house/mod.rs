// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The house rules that no other tool checks. One file one rule.

mod boundary;
mod length;
mod licence;
pub(crate) mod links;
mod manifests;
mod names;
mod safety;
pub(crate) mod source;
mod whitespace;

use anyhow::Result;

use crate::workspace::Workspace;
use source::{Finding, Source};

type Rule = fn(&[Source]) -> Vec<Finding>;

/// Everything in the repository that breaks a rule.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Finding>> {
    let sources = source::all(workspace)?;
    let rules: [Rule; 8] = [
        length::check,
        licence::check,
        safety::check,
        boundary::check,
        names::check,
        manifests::check,
        links::check,
        whitespace::check,
    ];
    Ok(rules.iter().flat_map(|rule| rule(&sources)).collect())
}
