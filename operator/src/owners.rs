//! Owner and shares, of a device or of its fleet, to the registry's form. Pure.

use std::collections::BTreeSet;

use depin_crds::Share;
use depin_domain::registry::OwnerShare;

use crate::{invalid::Invalid, quantities::account};

/// All of a reward, in 1/10,000.
const WHOLE: u64 = 10_000;

/// Who is paid, by account. Places are told as their author counts them: the registry has shares in the order of their accounts.
pub fn shares(owner: Option<&str>, shares: Option<&[Share]>) -> Result<Vec<OwnerShare>, Invalid> {
    let mut list = match (owner, shares) {
        (Some(owner), None) => vec![OwnerShare { account: account(owner), basis_points: 10_000 }],
        (None, Some(shares)) => several(shares)?,
        (None, None) => Vec::new(),
        (Some(_), Some(_)) => return Err(Invalid::new("spec.owner", "set beside spec.shares", "set one of them")),
    };
    list.sort_by(|a, b| a.account.cmp(&b.account));
    Ok(list)
}

fn several(shares: &[Share]) -> Result<Vec<OwnerShare>, Invalid> {
    let mut accounts = BTreeSet::new();
    let mut list = Vec::with_capacity(shares.len());
    for (index, share) in shares.iter().enumerate() {
        let account = account(&share.account);
        if !accounts.insert(account.clone()) {
            return Err(Invalid::new(format!("spec.shares[{index}].account"), "stands twice", "add the two parts"));
        }
        let basis_points = u32::try_from(share.basis_points)
            .map_err(|_| Invalid::new(format!("spec.shares[{index}].basisPoints"), "negative", "use 1 to 10000"))?;
        list.push(OwnerShare { account, basis_points });
    }
    let sum: u64 = list.iter().map(|share| u64::from(share.basis_points)).sum();
    if sum != WHOLE {
        return Err(Invalid::new("spec.shares", format!("basisPoints sum to {sum}"), "let them sum to 10000"));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(digit: &str, basis_points: i32) -> Share {
        Share { account: format!("0x{}", digit.repeat(40)), basis_points }
    }

    #[test]
    fn shares_are_told_by_the_place_that_their_author_gave_them() {
        let found = |list: &[Share]| shares(None, Some(list)).map_err(|error| error.field);
        let sorted = found(&[share("b", 4_000), share("A", 6_000)]).unwrap();
        assert_eq!(sorted.iter().map(|share| share.basis_points).collect::<Vec<_>>(), [6_000, 4_000]);
        // One account, whatever case its digits have.
        let twice = [share("b", 4_000), share("a", 3_000), share("B", 3_000)];
        assert_eq!(found(&twice), Err("spec.shares[2].account".to_owned()));
        assert_eq!(found(&[share("b", 4_000), share("a", -1)]), Err("spec.shares[1].basisPoints".to_owned()));
        assert_eq!(found(&[share("b", 4_000)]), Err("spec.shares".to_owned()));
        let both = shares(Some(&share("a", 1).account), Some(&[share("b", 10_000)]));
        assert_eq!(both.map_err(|error| error.field), Err("spec.owner".to_owned()));
    }
}
