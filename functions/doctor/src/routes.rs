//! Numbers lead to extensions that have devices.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use lambda_runtime::Error;
use ringback::doctor::{Fault, Finding};
use ringback::start::Start;
use ringback::store::directories::Directory;
use ringback_core::ids::Extension;

/// How many extensions are looked up at the same time.
const AT_ONCE: usize = 16;

pub(crate) async fn check(start: &Start) -> Result<Vec<Finding>, Error> {
    let (directories, devices) = (start.directories()?, start.devices()?);
    let mut extensions = BTreeSet::new();
    let mut next = None;
    loop {
        let page = directories.page(Directory::Numbers, next.as_ref()).await?;
        extensions.extend(page.entries.into_iter().map(|(_, extension)| extension));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    if extensions.is_empty() {
        return Ok(vec![Fault::NoRoute.at("numbers")]);
    }
    let devices = &devices;
    let lookups = stream::iter(extensions).map(|extension| async move {
        let found = match Extension::try_from(extension.as_str()) {
            Ok(known) => devices.of(&known).await?,
            // An entry that was written by hand.
            Err(_) => vec![],
        };
        let fault = Fault::RouteWithoutDevice.at(extension);
        Ok::<_, Error>(found.is_empty().then_some(fault))
    });
    let findings: Vec<_> = lookups.buffered(AT_ONCE).try_collect().await?;
    Ok(findings.into_iter().flatten().collect())
}
