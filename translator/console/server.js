// The translator: requests with the key, streams of events, and whether it is there.

const KEY_NAME = "pagewire.key";

class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  // Whether the server is to blame, or the way to it, so that it may not be ready any more.
  get isServers() {
    return this.status === 0 || this.status >= 500;
  }
}

function keptKey() {
  try {
    return sessionStorage.getItem(KEY_NAME) || "";
  } catch {
    return ""; // this browser keeps nothing
  }
}

const server = {
  asking: null,
  key: keptKey(),

  keepKey(key) {
    this.key = key;
    try {
      sessionStorage.setItem(KEY_NAME, key);
    } catch {
      // It lasts until the page is left.
    }
  },

  // Answers with the response, or throws a ServerError. A quiet call never asks for the key.
  // Calls `onSend` each time that it sends the request: again once a key was entered.
  async call(path, {body, signal, quiet = false, onSend = () => {}} = {}) {
    for (;;) {
      const headers = {};
      if (this.key) headers.authorization = `Bearer ${this.key}`;
      if (body) headers["content-type"] = "application/json";
      const options = {method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body)};
      onSend();
      const response = await this.fetched(path, options);
      if (response.ok) return response;
      const message = await messageOf(response);
      if (response.status !== 401 || quiet || !(await this.askForKey(message))) {
        throw new ServerError(response.status, message);
      }
    }
  },

  async fetched(path, options) {
    try {
      return await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(0, "The server cannot be reached.");
    }
  },

  async json(path, options) {
    return (await this.call(path, options)).json();
  },

  // Returns why no request can be served now; an empty text if it can.
  async notReadyReason() {
    try {
      await this.call("health/ready", {quiet: true});
      return "";
    } catch (error) {
      return error.message;
    }
  },

  // Returns whether somebody entered a key. All who need one wait for the same dialog.
  askForKey(message) {
    this.asking ??= new Promise(resolve => {
      const dialog = byId("key-dialog");
      byId("key-reason").textContent = message;
      byId("key").value = "";
      dialog.returnValue = "";
      dialog.onclose = () => {
        this.asking = null;
        if (dialog.returnValue === "save") this.keepKey(byId("key").value.trim());
        byId("key").value = "";
        resolve(dialog.returnValue === "save");
      };
      dialog.showModal();
    });
    return this.asking;
  },

  // Yields the data of each event of a stream, until its mark of the end.
  async *events(path, options) {
    const response = await this.call(path, options);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const {done, value} = await reader.read().catch(error => {
        if (error.name === "AbortError") throw error;
        throw new ServerError(0, "The connection was lost before the answer had ended.");
      });
      if (done) throw new ServerError(0, "The answer ended before its end.");
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const event of events) {
        const data = event.startsWith("data: ") ? event.slice(6) : null;
        if (data === "[DONE]") return;
        if (data) yield parsedEvent(data);
      }
    }
  },
};

function parsedEvent(data) {
  const event = JSON.parse(data);
  if (event.error) throw new ServerError(500, event.error.message); // its head had said that all was well
  return event;
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}
