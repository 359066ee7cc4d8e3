export interface Boat {
  name: string;
  type: "sail" | "motor";
  metres: number;
}

// Data beside the code: it is part of the bundle, and the same for every request.
import list from "./boats.json" with { type: "json" };

export const boats = new Map<string, Boat>((list as Boat[]).map((boat) => [boat.name.toLowerCase(), boat]));

export function search(type: string | undefined): Boat[] {
  return [...boats.values()].filter((boat) => type === undefined || boat.type === type);
}
