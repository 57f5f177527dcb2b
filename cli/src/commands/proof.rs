//! `proof`: what an account shows to the distributor to claim what it earned.

use depin_domain::rewards::{
    Account, Amount, ProgramSpec,
    merkle::{StandardTree, leaf, to_text, verify},
};
use serde_json::json;

use super::is_in;
use crate::{
    fault::Fault,
    ledger::{Ledger, find_programs},
    output::{Report, tokens},
};

pub(super) async fn run(
    ledger: &Ledger,
    namespace: &str,
    account: &str,
    program: Option<&str>,
    within: Option<&str>,
) -> Result<Report, Fault> {
    let account: Account = account.parse().map_err(|error: depin_domain::rewards::amount::ParseAccountError| {
        Fault::failed(error.to_string(), "give an EVM address")
    })?;
    let registry = ledger.registry().await?;
    let (mut text, mut values) = (String::new(), Vec::new());
    for id in find_programs(&registry, namespace, program, |id| is_in(within, id))? {
        let Some(computed) = ledger.epochs(&id).await?.pop() else { continue };
        let (number, published) = (computed.summary.number, computed.summary.root.clone());
        let state = ledger.state(&id, number).await?;
        let accounts = state.accounts.iter().filter(|account| !account.cumulative.is_zero());
        let leaves: Vec<(Account, Amount)> = accounts.map(|account| (account.account, account.cumulative)).collect();
        let Some(place) = leaves.iter().position(|(name, _)| *name == account) else { continue };
        let tree = StandardTree::new(&leaves);
        let claim = tree.as_ref().and_then(|tree| Some((tree.root(), tree.proof(place)?)));
        let Some((root, proof)) = claim else { continue };
        let cumulative = leaves[place].1;
        if published.as_deref() != Some(&to_text(&root)) || !verify(&root, &leaf(&account, cumulative), &proof) {
            return Err(Fault {
                message: format!("the state of epoch {number} of {id} does not give its published root"),
                remedy: "report it: the ledger's record contradicts itself".into(),
                code: crate::fault::NOT_RIGHT,
            });
        }
        let proof: Vec<String> = proof.iter().map(to_text).collect();
        let spec = registry.program(&id).and_then(|program| program.ruling(number));
        let token = spec.and_then(|entry| serde_json::from_str::<ProgramSpec>(&entry.spec).ok()).map(|spec| spec.token);
        let whole = token.map_or_else(
            || cumulative.to_string(),
            |token| format!("{} {}", tokens(cumulative, token.decimals), token.symbol),
        );
        text.push_str(&format!(
            "Program     {id}, epoch {number}\nAccount     {account}\nCumulative  {whole} ({cumulative})\nRoot        {}\nProof       [{}]\n\n",
            to_text(&root),
            proof.join(", ")
        ));
        values.push(json!({"program": id, "epoch": number, "account": account, "cumulative": cumulative, "root": to_text(&root), "proof": proof}));
    }
    if values.is_empty() {
        return Err(Fault::not_found(
            format!("{account} has nothing to claim yet"),
            "see who was paid: kubectl depin epochs -o json",
        ));
    }
    Ok(Report::new(values.into(), text))
}
