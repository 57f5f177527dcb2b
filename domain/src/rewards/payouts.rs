//! Where an epoch's amounts go: to owners, to who waits for an owner, back to the carry.
//!
//! Every unit that enters leaves through exactly one of these doors; [`Flow::settle`] is the only place where balances change.

use std::collections::BTreeMap;

use super::{
    amount::{Account, Amount, BASIS_POINTS},
    error::EpochError,
    input::Share,
    resolve::ResolvedDevice,
    result::{AccountState, Held, OwnerAmount, Payout, ProgramState, Released, ReleasedHeld},
};
use crate::ids::DeviceId;

/// Amounts under way in one close.
pub(super) struct Flow {
    number: u64,
    /// Free: of the epochs before, and what this close returns.
    pub(super) carry: Amount,
    pub(super) unallocated: Amount,
    held: BTreeMap<(DeviceId, u64), Amount>,
    /// What was held and who got it, by device and epoch.
    released: BTreeMap<(DeviceId, u64), (Amount, Vec<Share>)>,
    gross: Vec<(Account, Amount)>,
    debts: Vec<(Account, Amount)>,
}

/// How an amount for a device was paid.
#[derive(Default)]
pub(super) struct Paid {
    pub(super) owners: Vec<OwnerAmount>,
    pub(super) residual: Amount,
    pub(super) held: bool,
}

/// What was taken back.
#[derive(Default)]
pub(super) struct Corrected {
    pub(super) amount: Amount,
    pub(super) debts: Vec<OwnerAmount>,
}

/// What the accounts have after everything was paid.
pub(super) struct Settled {
    pub(super) payouts: Vec<Payout>,
    pub(super) accounts: Vec<AccountState>,
    pub(super) held: Vec<Held>,
    pub(super) released: Vec<ReleasedHeld>,
    pub(super) offset: Amount,
}

pub(super) fn sum(what: &'static str, a: Amount, b: Amount) -> Result<Amount, EpochError> {
    a.plus(b).ok_or(EpochError::Overflow { what })
}

pub(super) fn difference(what: &'static str, a: Amount, b: Amount) -> Result<Amount, EpochError> {
    a.minus(b).ok_or(EpochError::Overflow { what })
}

/// The owners, if they are valid: at least one, together at most the whole.
pub(super) fn owners(device: &ResolvedDevice) -> &[Share] {
    let whole: u64 = device.shares.iter().map(|share| u64::from(share.basis_points)).sum();
    if whole <= u64::from(BASIS_POINTS) { &device.shares } else { &[] }
}

impl Flow {
    pub(super) fn new(number: u64, state: &ProgramState) -> Result<Self, EpochError> {
        let mut held = BTreeMap::new();
        for entry in &state.held {
            let amount: &mut Amount = held.entry((entry.device, entry.number)).or_default();
            *amount = sum("a held amount", *amount, entry.amount)?;
        }
        let mut released = BTreeMap::new();
        for entry in &state.released {
            released.insert((entry.device, entry.number), (entry.amount, entry.shares.clone()));
        }
        let (gross, debts) = (Vec::new(), Vec::new());
        Ok(Self { number, carry: state.carry, unallocated: Amount::ZERO, held, released, gross, debts })
    }

    pub(super) fn pay_account(&mut self, account: Account, amount: Amount) {
        self.gross.push((account, amount));
    }

    pub(super) fn return_to_carry(&mut self, amount: Amount) -> Result<(), EpochError> {
        self.carry = sum("the carry", self.carry, amount)?;
        Ok(())
    }

    /// Pays a device's amount to its owners, or sets it aside.
    pub(super) fn pay_device(&mut self, device: &ResolvedDevice, amount: Amount) -> Result<Paid, EpochError> {
        if amount.is_zero() {
            return Ok(Paid::default());
        }
        let shares = owners(device);
        if shares.is_empty() {
            let waiting = self.held.entry((device.id, self.number)).or_default();
            *waiting = sum("a held amount", *waiting, amount)?;
            return Ok(Paid { held: true, ..Paid::default() });
        }
        let (owners, residual) = self.pay_owners(shares, amount)?;
        Ok(Paid { owners, residual, held: false })
    }

    fn pay_owners(&mut self, shares: &[Share], amount: Amount) -> Result<(Vec<OwnerAmount>, Amount), EpochError> {
        let mut residual = amount;
        let mut owners = Vec::with_capacity(shares.len());
        for Share { account, basis_points } in shares {
            let part = amount.basis_points(*basis_points).ok_or(EpochError::Overflow { what: "an owner's part" })?;
            residual = difference("an owner's part", residual, part)?;
            self.gross.push((*account, part));
            owners.push(OwnerAmount { account: *account, basis_points: *basis_points, amount: part });
        }
        self.return_to_carry(residual)?;
        Ok((owners, residual))
    }

    /// Takes back what a device was paid too much in `epoch`, as a debt of its owners. Where it had none: from what is still held of
    /// it, then as a debt of those to whom that was released. What has expired cannot be taken back. Answers what was.
    pub(super) fn correct(
        &mut self,
        device: &ResolvedDevice,
        epoch: u64,
        amount: Amount,
    ) -> Result<Corrected, EpochError> {
        let shares = owners(device);
        if !shares.is_empty() {
            return self.owe(shares, amount);
        }
        let (key, mut taken) = ((device.id, epoch), Amount::ZERO);
        if let Some(held) = self.held.get_mut(&key) {
            taken = amount.min(*held);
            *held = difference("a held amount", *held, taken)?;
        }
        self.return_to_carry(taken)?;
        let mut corrected = Corrected::default();
        if let Some((released, shares)) = self.released.remove(&key) {
            corrected = self.owe(&shares, difference("a correction", amount, taken)?.min(released))?;
        }
        corrected.amount = sum("a correction", corrected.amount, taken)?;
        Ok(corrected)
    }

    fn owe(&mut self, shares: &[Share], amount: Amount) -> Result<Corrected, EpochError> {
        let mut corrected = Corrected::default();
        for Share { account, basis_points } in shares {
            let part = amount.basis_points(*basis_points).ok_or(EpochError::Overflow { what: "a correction" })?;
            corrected.amount = sum("a correction", corrected.amount, part)?;
            corrected.debts.push(OwnerAmount { account: *account, basis_points: *basis_points, amount: part });
            self.debts.push((*account, part));
        }
        Ok(corrected)
    }

    /// Pays everything that waits for `device` to its owners, if it has any now.
    pub(super) fn release(&mut self, device: &ResolvedDevice) -> Result<Option<Released>, EpochError> {
        let shares = owners(device);
        if shares.is_empty() || self.held.is_empty() {
            return Ok(None);
        }
        let waiting: Vec<u64> =
            self.held.range((device.id, 0)..=(device.id, u64::MAX)).map(|((_, number), _)| *number).collect();
        let mut amount = Amount::ZERO;
        for number in waiting {
            let held = self.held.remove(&(device.id, number)).unwrap_or_default();
            amount = sum("held amounts", amount, held)?;
            self.released.insert((device.id, number), (held, shares.to_vec()));
        }
        if amount.is_zero() {
            return Ok(None);
        }
        let (owners, residual) = self.pay_owners(shares, amount)?;
        Ok(Some(Released { amount, owners, residual }))
    }

    /// Lets go what was held for `hold_epochs` further epochs.
    pub(super) fn expire(&mut self, hold_epochs: u64) -> Result<(), EpochError> {
        let number = self.number;
        let expired = |(_, since): &(DeviceId, u64)| number.saturating_sub(*since) >= hold_epochs;
        for amount in self.held.iter().filter(|(key, _)| expired(key)).map(|(_, amount)| *amount) {
            self.unallocated = sum("unallocated", self.unallocated, amount)?;
        }
        self.held.retain(|key, amount| !expired(key) && !amount.is_zero());
        Ok(())
    }

    /// Adds everything up by account. Debts are taken from what is paid now, never from what may be claimed already, so no
    /// cumulative amount falls; what they take returns to the carry.
    pub(super) fn settle(mut self, state: &ProgramState) -> Result<(Settled, Amount, Amount), EpochError> {
        let gross = totals(std::mem::take(&mut self.gross))?;
        let debts = totals(std::mem::take(&mut self.debts))?;
        let before = state.accounts.iter().map(|account| (account.account, *account)).collect::<BTreeMap<_, _>>();
        let mut names: Vec<Account> = before.keys().copied().collect();
        names.extend(gross.iter().chain(&debts).map(|(account, _)| *account));
        names.sort_unstable();
        names.dedup();

        let of = |list: &[(Account, Amount)], account: &Account| {
            list.binary_search_by_key(account, |(name, _)| *name).map_or(Amount::ZERO, |at| list[at].1)
        };
        let mut settled = Settled {
            payouts: Vec::with_capacity(names.len()),
            accounts: Vec::with_capacity(names.len()),
            held: Vec::new(),
            released: Vec::new(),
            offset: Amount::ZERO,
        };
        for account in names {
            let old = before.get(&account).copied().unwrap_or(AccountState { account, ..AccountState::default() });
            let gross = of(&gross, &account);
            let debt = sum("a debt", old.debt, of(&debts, &account))?;
            let offset = gross.min(debt);
            let amount = difference("a payout", gross, offset)?;
            let cumulative = sum("a cumulative amount", old.cumulative, amount)?;
            let debt = difference("a debt", debt, offset)?;
            settled.offset = sum("offsets", settled.offset, offset)?;
            if !cumulative.is_zero() {
                settled.payouts.push(Payout { account, amount, cumulative, debt });
            }
            if !cumulative.is_zero() || !debt.is_zero() {
                settled.accounts.push(AccountState { account, cumulative, debt });
            }
        }
        self.return_to_carry(settled.offset)?;
        settled.held =
            self.held.into_iter().map(|((device, number), amount)| Held { device, number, amount }).collect();
        let released = self.released.into_iter();
        let entry = |((device, number), (amount, shares))| ReleasedHeld { amount, device, number, shares };
        settled.released = released.map(entry).collect();
        Ok((settled, self.carry, self.unallocated))
    }
}

/// Sums by account, ascending.
fn totals(mut list: Vec<(Account, Amount)>) -> Result<Vec<(Account, Amount)>, EpochError> {
    list.sort_unstable_by_key(|(account, _)| *account);
    let mut totals: Vec<(Account, Amount)> = Vec::new();
    for (account, amount) in list {
        match totals.last_mut() {
            Some((last, total)) if *last == account => *total = sum("an account's payout", *total, amount)?,
            _ => totals.push((account, amount)),
        }
    }
    Ok(totals)
}
