// What every program for Node.js here asks for, and how it says what went well.

import { z } from "zod";

export const MODEL = "smollm2-135m-instruct";
export const QUESTION = "What is the capital of France?";
export const WEATHER_QUESTION = "How is the weather in Rome over the next 3 days?";
export const Weather = z.strictObject({
  city: z.enum(["Paris", "Rome"]),
  days: z.int().min(1).max(9),
});

// The translator's address, the program's only argument, without a path.
export const baseUrl = process.argv[2];

// Runs all steps, and prints the name of each that went well.
export async function run(...steps) {
  for (const step of steps) {
    await step();
    console.log(step.name);
  }
}
