// Reads JSON lines, each a list of [address, amount]; writes for each {root, proofs} by OpenZeppelin's StandardMerkleTree.
import { createInterface } from "node:readline";
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";

for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim() === "") continue;
  const tree = StandardMerkleTree.of(JSON.parse(line), ["address", "uint256"]);
  const proofs = [...tree.entries()].map(([index]) => tree.getProof(index));
  console.log(JSON.stringify({ root: tree.root, proofs }));
}
