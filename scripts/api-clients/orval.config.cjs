// Functions over fetch, one file. The server's address is the caller's.
module.exports = {
  wrenn: {
    input: { target: process.env.WRENN_DESCRIPTION },
    output: { target: './generated/orval.ts', client: 'fetch', mode: 'single', baseUrl: process.env.WRENN_BASE_URL },
  },
};
