//! The devices of each extension, with their phones and apps.

use fastrand::Rng;
use ringback_core::call::CallParty;
use ringback_core::ids::{CallId, DeviceId, Extension};

use crate::scenario::{DevicePlan, Scenario};

/// All phones and apps.
pub struct Phones {
    /// The devices of each extension.
    pub extensions: Vec<Vec<PhoneDevice>>,
    /// Whether the apps name their device if they are the only one.
    pub name_devices: bool,
    /// Where the phones of the calling apps are registered.
    pub caller_at: usize,
    /// The address at which each PBX reaches each account: the one that registered last.
    pub contacts: Vec<Contact>,
    pub registrations: Vec<Registration>,
    /// The calls for which the callee's phone was dialed.
    pub dialed: Vec<CallId>,
}

/// One device of the callee.
pub struct PhoneDevice {
    pub id: DeviceId,
    pub plan: DevicePlan,
    pub rings: Vec<Ring>,
    /// Which of its addresses the phone has now.
    pub address: u32,
    pub has_registered: bool,
}

/// A device of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub extension: usize,
    pub device: usize,
}

/// A SIP account. A PBX knows one address of each: the one that registered last (`max_contacts = 1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    Own(At),
    /// The devices of an extension share it.
    Shared(usize),
}

/// The address of an account at a PBX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    pub pbx: usize,
    pub account: Account,
    pub at: At,
    pub address: u32,
    /// When the phone registered it.
    pub since: u64,
}

/// A PBX knew where the phone of an account is from then until then.
pub struct Registration {
    pub pbx: usize,
    pub account: Account,
    pub from: u64,
    pub until: Option<u64>,
}

/// One call on one device.
pub struct Ring {
    pub call: CallId,
    /// How often a push was sent, and whether a cancellation was sent after the last one.
    pub pushes: u32,
    pub is_canceled: bool,
    /// The app knows what became of the call without a cancellation.
    pub is_settled: bool,
    pub has_accepted: bool,
    /// Whether a report that the device rings has got its answer.
    pub is_reported: bool,
    /// When the device began to ring, and when it stopped.
    pub began: Option<u64>,
    pub ended: Option<u64>,
    /// When the first cancellation arrived.
    pub silenced: Option<u64>,
}

/// The extension that the devices of this number have.
pub fn called_extension(number: usize) -> Option<Extension> {
    Extension::try_from(format!("{}", 1001 + number).as_str()).ok()
}

/// The extension of the app that starts this call of the plan.
pub fn calling_extension(number: usize) -> Option<Extension> {
    Extension::try_from(format!("{}", 2001 + number).as_str()).ok()
}

impl Phones {
    pub fn of(plan: &Scenario, rng: &mut Rng) -> Self {
        let device = |(number, plan): (usize, &DevicePlan)| {
            Some(PhoneDevice {
                id: DeviceId::try_from(format!("device{number}").as_str()).ok()?,
                plan: plan.clone(),
                rings: Vec::new(),
                address: 0,
                has_registered: false,
            })
        };
        let extension = |devices: &Vec<DevicePlan>| {
            let devices = devices.iter().enumerate();
            devices.filter_map(device).collect()
        };
        Self {
            extensions: plan.extensions.iter().map(extension).collect(),
            name_devices: rng.bool(),
            caller_at: rng.usize(0..plan.pbxs),
            contacts: Vec::new(),
            registrations: Vec::new(),
            dialed: Vec::new(),
        }
    }

    pub fn device(&mut self, at: At) -> &mut PhoneDevice {
        &mut self.extensions[at.extension][at.device]
    }

    /// The account with which this device registers.
    pub fn account_of(&self, at: At) -> Account {
        if self.extensions[at.extension][at.device]
            .plan
            .has_sip_account
        {
            Account::Own(at)
        } else {
            Account::Shared(at.extension)
        }
    }

    /// The account to call: that of the device, or of the only device of the extension.
    pub fn account_to_call(&self, extension: usize, device: Option<&DeviceId>) -> Account {
        let devices = &self.extensions[extension];
        let place = match device {
            Some(device) => devices.iter().position(|known| known.id == *device),
            None => (devices.len() == 1).then_some(0),
        };
        place.map_or(Account::Shared(extension), |device| {
            self.account_of(At { extension, device })
        })
    }

    /// The account of the devices that have accepted the call. `None` if they have several accounts.
    pub fn accepting_account(&self, extension: usize, call: CallId) -> Option<Account> {
        let devices = self.extensions[extension].iter().enumerate();
        let accepting = devices.filter(|(_, device)| {
            let mut rings = device.rings.iter();
            rings.any(|ring| ring.call == call && ring.has_accepted)
        });
        let mut accounts = accepting.map(|(device, _)| self.account_of(At { extension, device }));
        let first = accounts.next()?;
        accounts.all(|other| other == first).then_some(first)
    }

    pub fn party(&self, at: At) -> Option<CallParty> {
        let devices = &self.extensions[at.extension];
        let id = devices[at.device].id.clone();
        Some(CallParty {
            extension: called_extension(at.extension)?,
            device: (self.name_devices || devices.len() > 1).then_some(id),
        })
    }
}

impl Ring {
    pub fn stops(&mut self, elapsed: u64) {
        if self.began.is_some() {
            self.ended.get_or_insert(elapsed);
        }
    }

    pub const fn rings(&self) -> bool {
        self.began.is_some() && self.ended.is_none()
    }
}

impl PhoneDevice {
    pub fn ring_of(&mut self, call: CallId) -> &mut Ring {
        let place = self.rings.iter().position(|ring| ring.call == call);
        let place = place.unwrap_or_else(|| {
            self.rings.push(Ring {
                call,
                pushes: 0,
                is_canceled: false,
                is_settled: false,
                has_accepted: false,
                is_reported: false,
                began: None,
                ended: None,
                silenced: None,
            });
            self.rings.len() - 1
        });
        &mut self.rings[place]
    }
}
